"""Prints Tables 2 and 3 of the paper: computed FLOPs beside the printed ones.

With config files, it prints what their pre-trainings take: the sparsity at the start,
at the end and on average over the steps, and the operations with the zeros skipped.
"""

from argparse import ArgumentParser, Namespace

from spdf_keras.commands.arguments import add_json

HELP = "print Tables 2 and 3, or the training FLOPs of config files"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "configs", nargs="*", metavar="CONFIG", help="TOML file with the settings"
    )
    add_json(parser)


def run(args: Namespace) -> None:
    from spdf_keras.console import print_json, print_table
    from spdf_keras.flops import MODELS, table_2, table_3

    if args.configs:
        _print_configs(args)
        return
    pretraining, finetuning = table_2(), table_3()
    print_table(
        "Table 2: pre-training FLOPs, forward and backward (printed value in brackets)",
        ["Model", "Sparsity", "Sequences", "FLOPs / seq", "FLOPs", "exaFLOPs", "Ratio"],
        [
            [
                MODELS[row["model"]],
                f"{row['sparsity']:.0%}",
                f"{row['sequences']:.3g} ({row['printed_sequences']:.3g})",
                _both(row, "flops_per_sequence"),
                _both(row, "total_flops"),
                f"{row['exaflops']:.2f} ({row['printed_exaflops']:.2f})",
                f"{row['ratio']:.3f}x ({row['printed_ratio']:g}x)",
            ]
            for row in pretraining
        ],
    )
    print_table(
        "Table 3: dense fine-tuning FLOPs at 512 tokens (printed value in brackets)",
        [
            *("Dataset", "Model", "Sequences", "Forward / seq", "Training / seq"),
            *("FLOPs", "exaFLOPs", "Of pre-training"),
        ],
        [
            [
                row["dataset"],
                MODELS[row["model"]],
                f"{row['sequences']:,} ({row['printed_sequences']:,.0f})",
                _both(row, "flops_per_sequence"),
                f"{row['training_flops_per_sequence']:.3g}",
                _both(row, "total_flops"),
                f"{row['exaflops']:.3f} ({row['printed_exaflops']:.3f})",
                f"{row['ratio']:.2%}",
            ]
            for row in finetuning
        ],
    )
    print(
        "A ratio of 0.401x means 2.5 times fewer operations; the zeros count as "
        "skipped.\nTable 3 prints the forward pass alone as FLOPs per sequence, "
        "though its caption\nsays forward and backward; its totals are three times "
        "that, times the sequences."
    )
    if args.json:
        print_json({"table_2": pretraining, "table_3": finetuning})


def _print_configs(args: Namespace) -> None:
    from spdf_keras.config import load_config
    from spdf_keras.console import print_json, print_table
    from spdf_keras.flops import training_flops
    from spdf_keras.model.sparsity_plan import SparsityPlan

    rows = []
    for file in args.configs:
        config = load_config(file)
        model, steps = config.model, config.train.total_steps(config.model)
        plan = SparsityPlan(model, config.sparsity, steps)
        sequences, length = steps * config.train.batch_size, model.max_sequence_length
        total, dense = (
            sequences * training_flops(model, length, sparsity)
            for sparsity in (plan.average, 0.0)
        )
        rows.append(
            {
                "config": file,
                "method": config.sparsity.method,
                "initial_sparsity": plan.at(1),
                "final_sparsity": plan.final,
                "average_sparsity": plan.average,
                "steps": steps,
                "total_flops": total,
                "dense_flops": dense,
                "ratio": total / dense,
            }
        )
    print_table(
        "Pre-training FLOPs, forward and backward, zeros skipped",
        [
            *("Config", "Method", "First sparsity", "Last", "Mean", "Steps"),
            *("FLOPs", "Of dense"),
        ],
        [
            [
                row["config"],
                row["method"],
                *(f"{100 * row[f'{n}_sparsity']:.4g}%" for n in _SPARSITIES),
                f"{row['steps']:,}",
                f"{row['total_flops']:.3g}",
                f"{row['ratio']:.3f}x",
            ]
            for row in rows
        ],
    )
    if args.json:
        print_json(rows)


_SPARSITIES = ("initial", "final", "average")


def _both(row: dict[str, float], key: str) -> str:
    return f"{row[key]:.3g} ({row['printed_' + key]:.3g})"
