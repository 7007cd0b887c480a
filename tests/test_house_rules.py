"""Rules that a test can check: names, access to stdin and stdout, no sleeping tests, and correct documents."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

from one_provider_mad import errors
from one_provider_mad.providers.registry import build
from one_provider_mad.providers.simulated.settings import SimulatedSettings
from one_provider_mad.settings import Places, Policy, load

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "one_provider_mad"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [
    *SOURCES,
    *TESTS,
    *DOCUMENTS,
    *sorted((ROOT / "benchmarks").rglob("*.py")),
    *sorted((ROOT / "tools").rglob("*.py")),
    *sorted((ROOT / "etc").iterdir()),
    *sorted((ROOT / "bin").iterdir()),
    *(ROOT / name for name in ("Makefile", "pyproject.toml", "setup.cfg", ".ci/run")),
]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def text_of(path: Path) -> str:
    return path.read_text()


def assert_none(paths: Iterable[Path], found: Callable[[Path], object]) -> None:
    """Check that nothing is found in any of these files; the failure names all files and findings."""
    looked_at = {shown(path): found(path) for path in paths}
    assert looked_at, "a rule about no file at all"
    wrong = [f"{name}: {what}" for name, what in looked_at.items() if what]
    assert not wrong, "\n".join(wrong)


# Names

DUMPING_GROUNDS = re.compile(r"(utils?|helpers?|common|managers?|misc|base(_.*)?)")


def test_no_module_is_named_utils_helpers_or_the_like() -> None:
    assert_none([*SOURCES, *TESTS], lambda path: DUMPING_GROUNDS.fullmatch(path.stem.removeprefix("test_")))


def test_init_files_have_only_a_docstring_imports_and_assignments() -> None:
    def more_than_that(path: Path) -> list[str]:
        first, *rest = ast.parse(text_of(path)).body or [ast.Pass()]
        more = [node for node in rest if not isinstance(node, ast.Import | ast.ImportFrom | ast.Assign)]
        return [type(node).__name__ for node in ([] if isinstance(first, ast.Expr) else [first]) + more]

    assert_none(sorted(PACKAGE.rglob("__init__.py")), more_than_that)


# Standard input and output

STANDARD_STREAMS = re.compile(
    r"sys\.(__)?std(in|out)\b|\bos\.(write|read|fdopen|dup2?)\((0|1|STDIN|STDOUT)\b|\bfd=(0|1)\b|(?<![\w.])print\(|\binput\("
)
MAY_TOUCH_THEM = ("one_provider_mad/programs.py", "one_provider_mad/transport.py", "one_provider_mad/cli/")


def test_only_the_transport_touches_stdin_and_stdout() -> None:
    others = [path for path in SOURCES if not shown(path).startswith(MAY_TOUCH_THEM)]
    assert_none(others, lambda path: STANDARD_STREAMS.search(text_of(path)))


# Files

MAKES_FILES = re.compile(
    r"\bos\.(mknod|mkdir|makedirs|l?chown|symlink|link|rename|replace)\(|O_CREAT|sqlite3\.connect\("
    r"|\.(touch|mkdir|write_text|write_bytes|symlink_to|hardlink_to|chmod)\("
)
MAY_MAKE_THEM = {
    "one_provider_mad/file_owner.py": "does it for all",
    "one_provider_mad/database.py": "opens what that has made",
    "one_provider_mad/lab/demo.py": "in a temporary directory of its own",
}


def test_only_file_owner_creates_files_so_that_root_never_follows_a_users_link() -> None:
    others = [path for path in SOURCES if shown(path) not in MAY_MAKE_THEM]
    assert_none(others, lambda path: [match[0] for match in MAKES_FILES.finditer(text_of(path))])


# No sleeping tests

SLEEP = re.compile(r"(?<!\w)(?P<module>time|asyncio)?\.?sleep\((?P<seconds>[^)]*)\)")
WAITS = {"tests/waiting.py"}
"""Files that sleep between checks of a condition, with a deadline."""


def test_no_test_sleeps_for_a_fixed_time() -> None:
    def sleeps(path: Path) -> list[str]:
        return [match[0] for match in SLEEP.finditer(text_of(path)) if match["seconds"] not in {"", "0"}]

    others = [path for path in TESTS if shown(path) not in WAITS and path != Path(__file__)]
    assert_none(others, sleeps)


# Lines of oned

ENCODER = re.compile(r"one_provider_mad\.cli\.(driver_message|verbs|vm_template)\b")
TESTS_OF_THE_ENCODER = {"tests/cli/test_driver_message.py", "tests/cli/test_encode.py"}


def test_only_tests_of_the_encoder_import_it() -> None:
    """All other tests send lines of tests/oned_lines.py, which are compared with recorded ones."""
    others = [path for path in TESTS if shown(path) not in TESTS_OF_THE_ENCODER and path != Path(__file__)]
    assert_none(others, lambda path: ENCODER.search(text_of(path)))


# Documents

NAMED = re.compile(r"`(?P<file>[a-z_/]+\.py)` `(?P<name>\w+(?:\.\w+)?)`")
FILE = re.compile(r"`((?:one_provider_mad|bin|docs|etc|tests|tools|benchmarks)/[\w./-]+)`")


def definitions(path: Path) -> Iterator[str]:
    """All functions, classes, methods and top-level names of a file, dotted."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
            yield from (f"{node.name}.{child.name}" for child in node.body if isinstance(child, _FUNCTIONS))
        elif isinstance(node, _FUNCTIONS):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_the_architecture_page_names_existing_functions() -> None:
    named = list(NAMED.finditer((ROOT / "docs" / "architecture.md").read_text()))
    assert len(named) >= 12, "the page names files and functions, in order"
    missing = [match[0] for match in named if match["name"] not in set(definitions(PACKAGE / match["file"]))]
    assert not missing


def test_files_named_in_documents_exist() -> None:
    def missing(path: Path) -> list[str]:
        return [name for name in FILE.findall(text_of(path)) if not (ROOT / name).exists()]

    assert_none(DOCUMENTS, missing)


def test_links_between_documents_have_a_target() -> None:
    def broken(path: Path) -> list[str]:
        links = re.findall(r"\]\((?!https?:)([^)#]+)", text_of(path))
        return [link for link in links if not (path.parent / link).exists()]

    assert_none(DOCUMENTS, broken)


def error_table() -> dict[str, tuple[str, str, str]]:
    rows = re.findall(
        r"^\| (\w+) \| (.+) \| (.+) \| (.+) \|$", (ROOT / "docs" / "providers.md").read_text(), re.MULTILINE
    )
    return {kind: (meaning, retried, sentence) for kind, meaning, retried, sentence in rows if kind != "kind"}


KINDS: dict[str, type[errors.MadError]] = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.ProviderError | errors.OwnershipError)
}


def test_the_table_of_errors_has_every_kind() -> None:
    assert list(error_table()) == list(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_the_table_of_errors_agrees_with_the_classes(name: str) -> None:
    meaning, retried, sentence = error_table()[name]
    kind = KINDS[name]
    assert meaning == inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
    is_retryable = issubclass(kind, errors.ProviderError) and kind.retryable
    assert re.split(r"[;, ]", retried)[0] == ("yes" if is_retryable else "no")
    assert sentence


def test_every_cited_decision_exists() -> None:
    written = set(re.findall(r"^### (\d+)\. ", (ROOT / "docs" / "decisions.md").read_text(), re.MULTILINE))
    for path in [*SOURCES, *TESTS]:
        for cited in re.findall(r"\bdecisions? (\d+)(?:(?:,| to| and) (\d+))*", text_of(path)):
            assert {number for number in cited if number} <= written, shown(path)


# Examples

EXAMPLES = {
    **{path.stem: path.read_text() for path in sorted((ROOT / "etc").glob("*.toml"))},
    "provider_name": re.findall(r"```toml\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_configuration_is_valid(name: str, tmp_path: Path) -> None:
    places = Places(conf=tmp_path, var=tmp_path, log=tmp_path)
    file = tmp_path / f"{name}.toml"
    file.write_text(EXAMPLES[name])
    file.chmod(0o640)
    build(load(name, places), places, pytest.fail)


def test_the_example_of_the_embedded_cloud_has_every_setting() -> None:
    keys = set(re.findall(r"^(?:# )?(\w+) = ", EXAMPLES["simulated"], re.MULTILINE))
    tables = set(re.findall(r"^\[simulated\.(\w+)\]", EXAMPLES["simulated"], re.MULTILINE))
    assert {*SimulatedSettings.__struct_fields__, *Policy.__struct_fields__} <= keys | tables


# No references to files outside the project

OUTSIDE = re.compile("/work/" + "|shared/" + r"|\b(?:style|dependencies|design)\.md\b")


def test_no_text_refers_to_files_outside_the_project() -> None:
    others = [path for path in TEXTS if path != Path(__file__)]
    assert_none(others, lambda path: OUTSIDE.search(text_of(path)))
