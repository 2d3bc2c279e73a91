"""All that can be fetched: files of the tasks, a corpus and a vocabulary."""

from spdf_keras.data.public.public_file import Collection, PublicFile, on_github
from spdf_keras.data.tasks.registry import TASKS

_GPT2 = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"

COLLECTIONS = {
    **{task.name: task.public for task in TASKS.values()},
    "wikitext2": Collection(
        "WikiText-2",
        "CC BY-SA 3.0, text of Wikipedia",
        "https://github.com/pytorch/examples",
        on_github(
            "pytorch/examples",
            "main/word_language_model/data/wikitext-2",
            "wikitext2",
            ("train.txt", 10797148, "2d84b35af79e411d73ea7cae83c73964c6ac83b4"),
            ("valid.txt", 1121681, "eec944eb2d9e46061cd34a6913528797db6842fc"),
            ("test.txt", 1256449, "6f3fc88e4cd88456ea892971f9f12243e8428624"),
        ),
    ),
    "gpt2_bpe": Collection(
        "GPT-2's vocabulary",
        "MIT",
        "https://github.com/openai/gpt-2",
        (
            PublicFile(
                "gpt2_bpe/encoder.json",
                f"{_GPT2}/encoder.json",
                1042301,
                "1f1d9aaca301414e7f6c9396df506798ff4eb9a6",
                "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
            ),
            PublicFile(
                "gpt2_bpe/vocab.bpe",
                f"{_GPT2}/vocab.bpe",
                456318,
                "226b0752cac7789c48f0cb3ec53eda48b7be36cc",
                "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
            ),
        ),
    ),
}
