"""PEFT's own tests over attached models: which of those that pass on plain PEFT pass when every model that PEFT makes is attached.

    python benchmarks/peft_suite.py [--sources DIRECTORY] [--every 6] [--results DIRECTORY] [--output FILE] [TESTS ...]

Needs what PEFT's tests import: ``pip install pytest parameterized datasets diffusers sentencepiece requests``. The tests come with the
source distribution of the installed release, which pip downloads unless `--sources` names a folder that holds it. Nothing else is
downloaded: small models with random weights stand in for those of the hub, and what needs others, or data sets, fails on plain PEFT too.

Each test is run twice, plain and attached. With `--results`, how each ended is kept there, and tests whose end is known are not run again,
so that the run may be interrupted, or be made of parts.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import peft
import torch
import transformers

HERE = Path(__file__).resolve().parent
NOT_RUN = re.compile("gpu|gptq|vision|stablediffusion|quantization|torch_compile")
"""Files whose tests need an accelerator, or models that nothing stands in for."""
HALVES = ("plain", "attached")
OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "peft_suite_plugin", "-W", "ignore", "--tb=no", "-c", os.devnull]
REASONS = {
    r"test_bdlora.*delta|test_deft": "reads what a merge of PEFT leaves in the layer or in its base weight; here both stay as they are",
    r"preserves_custom_requires_grad": "freezes one parameter of an adapter; here that is a fact of the whole adapter",
    r"arrow.*task_adapter_active|requires_grad_adalora": "a switch does not thaw an adapter that was loaded, or made, frozen",
    r"repeated_invocation|test_xlora.*save_load_functional": "PEFT around an attached model: the whole of an attached model is refused",
    r"set_requires_grad_prompt_learning_raises": "expects that prompts cannot be frozen; here they can",
    r"osf_merge_and_unload": "expects that a merge cannot be undone; here it can",
    r"overlapping_token_indices_merging\[": "looks for words in what pytest prints of an error, which is cut off before them",
    r"Conv2d \d OFT|Conv2d2 \d OFT": "merges OFT on a convolution, which gives something else wherever its patches overlap",
    r"merge_layers_multi\[(OFT|C3A)|merge.*OFT Same": "merges several OFT or C3A adapters, which run one on the result of the other",
    r"test_active_adapter.*(LNTuning|OSF|trainable_tokens)|different_modules_to_save_works\[(LNT|OSF)": "activates together what PEFT "
    "does not compute, or not all of; here the switch is refused",
    r"irregular": "asks one layer for something and expects the others to stay; here a layer's methods are the model's",
    r"test_merge_adapters_large": "expects `merged_adapters` in the order of merging; here it is that of activation",
}
"""Pattern of a test's name -> why it may fail when attached. What no pattern fits has no known reason."""


def main() -> int:
    """Run both halves, print the table; 1 if a test has failed for no known reason."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("tests", nargs="*", help="files below the folder of the sources; by default all that need no accelerator")
    parser.add_argument("--sources", type=Path, metavar="DIRECTORY", help="PEFT's source distribution, unpacked")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="run one in N tests, chosen by their names")
    parser.add_argument("--results", type=Path, metavar="DIRECTORY", help="where results are kept")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the table to FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sources = (given.sources or download(Path(scratch))).resolve()
        results = (given.results or Path(scratch)).resolve()
        results.mkdir(parents=True, exist_ok=True)
        (sources / "tests" / "__init__.py").touch()  # the tests import one another; the source distribution has left this out
        tests = given.tests or [f"tests/{path.name}" for path in sorted(sources.glob("tests/test_*.py")) if not NOT_RUN.search(path.name)]
        for half in HALVES:
            run(half, sources, results, tests, given.every)
        lines = report(*(read(results / f"{half}.jsonl") for half in HALVES))
    text = "\n".join(lines) + "\n"
    print(text)
    if given.output:
        given.output.write_text(text, encoding="utf-8")
    return int(any("no known reason" in line for line in lines))


def download(folder: Path) -> Path:
    """Let pip fetch the source distribution of the installed release, and unpack it."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-binary",
        ":all:",
        "--no-deps",
        f"peft=={peft.__version__}",
        "-d",
        str(folder),
    ]
    subprocess.run(pip, check=True)
    with tarfile.open(next(folder.glob("peft-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def run(half: str, sources: Path, results: Path, tests: list[str], every: int) -> None:
    """Run one half of the tests; what it found is in the results."""
    settings = {
        "PEFT_SUITE_RESULTS": str(results / f"{half}.jsonl"),
        "PEFT_SUITE_MODELS": str(results / "models"),
        "PEFT_SUITE_EVERY": str(every),
        "PEFT_SUITE_ATTACH": "1" if half == "attached" else "",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", *OPTIONS, "--rootdir", str(sources), *tests]
    done = subprocess.run(command, cwd=sources, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    print(f"{half}: {(done.stdout.splitlines() or done.stderr.splitlines() or ['nothing'])[-1]}", file=sys.stderr, flush=True)


def read(path: Path) -> dict[str, str]:
    """How each test ended."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {name: outcome for name, outcome, *_ in found}


def report(plain: dict[str, str], attached: dict[str, str]) -> list[str]:
    """The table, by file, and the reasons."""
    passing = {name for name, outcome in plain.items() if outcome == "passed" and name in attached}
    failing = sorted(name for name in passing if attached[name] != "passed")
    files = {name: name.split("::")[0].removeprefix("tests/") for name in plain if name in attached}
    run, passed, kept = Counter(files.values()), Counter(files[n] for n in passing), Counter(files[n] for n in passing - set(failing))
    lines = [f"# PEFT {peft.__version__}'s own tests over attached models", ""]
    lines += [f"`python benchmarks/peft_suite.py {' '.join(sys.argv[1:])}`, {datetime.date.today()},"]
    lines += [f"transformers {transformers.__version__}, torch {torch.__version__}", ""]
    lines += ["| tests | run | pass on plain PEFT | of those pass attached |", "|---|---|---|---|"]
    lines += [f"| {file} | {run[file]} | {passed[file]} | {kept[file]} |" for file in sorted(run) if passed[file]]
    none = sum(number for file, number in run.items() if not passed[file])
    lines += [f"| others | {none} | 0 | 0 |"] if none else []
    lines += [f"| **all** | {len(files)} | {len(passing)} | {len(passing) - len(failing)} |", ""]
    reasons = Counter(next((why for pattern, why in REASONS.items() if re.search(pattern, name)), "no known reason") for name in failing)
    lines += ["| why others fail attached | tests |", "|---|---|", *(f"| {why} | {number} |" for why, number in reasons.most_common())]
    unknown = [name for name in failing if not any(re.search(pattern, name) for pattern in REASONS)]
    return [*lines, *(["", "No known reason:", "", *(f"- `{name}`" for name in unknown)] if unknown else [])]


if __name__ == "__main__":
    sys.exit(main())
