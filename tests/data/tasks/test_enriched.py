"""Xml whose elements have children, and the other layouts that xml comes in."""

import bz2
import gzip
import io
import tarfile
from pathlib import Path

import pytest

from spdf_keras.data.tasks.dart import read_dart_file
from spdf_keras.data.tasks.task import Example
from spdf_keras.data.tasks.triples import read_xml
from spdf_keras.data.tasks.webnlg import read_webnlg
from spdf_keras.errors import InputError

# The layout of the enriched WebNLG corpus, and of those that follow it.
ANNOTATED = """<lex comment="good" lid="Id{number}">
    <sortedtripleset>
      <sentence ID="1"><striple>Aarhus | leaderName | Jacob_B</striple></sentence>
    </sortedtripleset>
    <references>
      <reference entity="Aarhus" number="1" tag="AGENT-1" type="name">Aarhus</reference>
    </references>
    <text>{text}</text>
    <template>The leader of AGENT-1 is PATIENT-1 .</template>
    <lexicalization>DT[form=defined] the leader of AGENT-1 be</lexicalization>
  </lex>"""
TEXTS = ["The leader of Aarhus is Jacob B.", "Jacob B &amp; co lead Aarhus."]
ENTRY = """<entry category="City" eid="Id1" size="1">
  <originaltripleset><otriple>Aarhus | leader | Jacob_B</otriple></originaltripleset>
  <modifiedtripleset>
    <mtriple>Aarhus | leaderName | Jacob_B</mtriple>
  </modifiedtripleset>
  {lexes}
  <entitymap><entity>AGENT-1 | Aarhus</entity></entitymap>
</entry>"""
PLAIN = '<lex comment="good" lid="Id1">{text}</lex>'


def benchmark(*lexes: str) -> str:
    entry = ENTRY.format(lexes="".join(lexes))
    return f"<benchmark><entries>{entry}</entries></benchmark>"


def enriched() -> str:
    return benchmark(*(ANNOTATED.format(number=1, text=text) for text in TEXTS))


EXPECTED = [
    Example(
        "Aarhus : leaderName : Jacob_B",
        ("The leader of Aarhus is Jacob B.", "Jacob B & co lead Aarhus."),
        "City",
        True,
    )
]


def test_the_target_of_an_enriched_text_is_its_text(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "1triples"
    folder.mkdir(parents=True)
    (folder / "City.xml").write_text(enriched())
    assert read_webnlg(tmp_path, "train") == EXPECTED
    # The same as from the corpus without annotations.
    (folder / "City.xml").write_text(benchmark(*(PLAIN.format(text=t) for t in TEXTS)))
    assert read_webnlg(tmp_path, "train") == EXPECTED


def test_dart_reads_the_text_too(tmp_path: Path) -> None:
    (tmp_path / "d.xml").write_text(enriched())
    (example,) = read_dart_file(tmp_path / "d.xml")
    assert example.references == EXPECTED[0].references
    # The content decides what a file is, and not its name.
    (tmp_path / "d.XML").write_text(enriched())
    (tmp_path / "d.json").write_bytes(gzip.compress(enriched().encode()))
    (tmp_path / "d.txt").write_text("\ufeff" + enriched())
    for name in ("d.XML", "d.json", "d.txt"):
        assert read_dart_file(tmp_path / name) == [example]


@pytest.mark.parametrize(
    ("lex", "text"),
    [
        ("<lex><![CDATA[A <b> & c.]]></lex>", "A <b> & c."),
        ("<lex>A &lt;b&gt; &#38; c&#xe9;.</lex>", "A <b> & cé."),
        ("<lex>A<!-- not this -->B</lex>", "AB"),
        ("<lex a='1' xml:lang='en'><text lang='en'>A</text></lex>", "A"),
        ("<lex>\n<text><![CDATA[A]]></text><template>T</template>\n</lex>", "A"),
        ("<lex>mixed <text>A</text> text</lex>", "A"),
        ("<lex><sortedtripleset/></lex>", ""),
        ("<lex><text/></lex>", ""),
        ("<lex/>", ""),
    ],
)
def test_a_text_is_found_where_it_is(lex: str, text: str) -> None:
    (entry,) = read_xml("x.xml", benchmark(lex))
    assert entry.texts == [("", text)]
    # In a namespace of its own, the file is the same.
    inside = benchmark(lex).replace("<benchmark", '<benchmark xmlns="urn:webnlg"', 1)
    assert read_xml("x.xml", inside)[0].texts == [("", text)]
    prefixed = benchmark(PLAIN.format(text="A")).replace("<", "<w:")
    prefixed = prefixed.replace("<w:/", "</w:").replace(
        "<w:benchmark", '<w:benchmark xmlns:w="urn:w"', 1
    )
    assert read_xml("x.xml", prefixed)[0].texts == [("good", "A")]


@pytest.mark.parametrize(
    ("lex", "sentence"),
    [
        ("<lex>The <b>leader</b> of</lex>", "<lex> must hold text alone.* <b>"),
        ("<lex>A <template>T</template></lex>", "Received: <template>"),
        ("<lex><text>A</text><text>B</text></lex>", "Received: <text>, <text>"),
        ("<lex><text>A <i>b</i></text></lex>", "<text> must hold text alone.* <i>"),
    ],
)
def test_children_that_are_no_annotation_are_refused(lex: str, sentence: str) -> None:
    with pytest.raises(InputError, match=f"'x.xml', entry 1: .*{sentence}"):
        read_xml("x.xml", benchmark(lex))


def test_children_of_a_triple_are_refused() -> None:
    content = benchmark().replace("| Jacob_B</mtriple>", "| <o>Jacob_B</o></mtriple>")
    with pytest.raises(InputError, match="entry 1: <mtriple> must hold text alone"):
        read_xml("x.xml", content)


def test_texts_without_words_are_counted_and_no_reference(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    without = '<lex comment="good"><sortedtripleset/></lex>'
    content = benchmark(without, ANNOTATED.format(number=2, text="One."))
    (tmp_path / "dev" / "a.xml").write_text(content)
    examples = read_webnlg(tmp_path, "validation")
    assert examples[0].references == ("One.",)
    assert examples.left_out == {"empty texts": 1}


def test_xml_is_found_in_any_case_and_compressed_and_hidden_files_are_not_read(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "train"
    hidden = folder / ".ipynb_checkpoints"
    hidden.mkdir(parents=True)
    (hidden / "a-checkpoint.xml").write_text(enriched())
    (folder / "._a.xml").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    (folder / "a.XML").write_text(benchmark(PLAIN.format(text=TEXTS[0])))
    content = benchmark(PLAIN.format(text=TEXTS[1])).encode()
    (folder / "b.xml.bz2").write_bytes(bz2.compress(content))
    examples = read_webnlg(tmp_path, "train")
    assert examples == EXPECTED
    assert examples.left_out == {"files or folders (hidden)": 2}


@pytest.mark.parametrize("mode", ["gz", "xz", "bz2"])
def test_an_archive_from_a_mac_gives_its_texts_once(tmp_path: Path, mode: str) -> None:
    name = f"webnlg_challenge_2017_xml.tar.{mode}"
    with tarfile.open(tmp_path / name, f"w:{mode}") as archive:  # type: ignore[call-overload]
        for member, content in (
            ("./webnlg/train/1triples/._City.xml", b"\0\5\26\7\0\2\0\0Mac OS X"),
            ("./webnlg/train/1triples/City.xml", enriched().encode()),
        ):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    examples = read_webnlg(tmp_path, "train")
    assert examples == EXPECTED
    assert examples.left_out == {"files or folders (hidden)": 1}
