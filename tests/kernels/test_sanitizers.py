"""Every kernel under gcc's address and undefined-behaviour sanitizers, without Python."""

import subprocess
from pathlib import Path

import pytest

from tests.kernels.compiled import EMULATED_AMX, EMULATED_AVX512, HEADERS
from tinygpt.kernels import build

pytestmark = pytest.mark.gcc

SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fopenmp")
SOURCES = [path for path in build.SOURCES if path.suffix == ".c"]


def gcc(*arguments: str | Path) -> None:
    """Compile, with O1: as fast to compile as to run."""
    command = ["gcc", *build.FLAGS, *SANITIZE, f"-I{build.SOURCES[0].parent}", *map(str, arguments)]
    subprocess.run(command, check=True)


def compiled(program: Path, flags: tuple[str, ...], sources: list[Path]) -> Path:
    """The program; skipped where gcc has no sanitizers."""
    probe = program.with_name("probe.c")
    probe.write_text("int main(void) { return 0; }\n")
    command = ["gcc", *SANITIZE, str(probe), "-o", str(probe.with_suffix(""))]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this gcc has no sanitizers")
    gcc(*flags, *sources, "-o", program, "-lm")
    return program


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The kernels for fp32, compiled once for every program."""
    objects = [tmp_path_factory.mktemp("sanitized") / f"{path.stem}.o" for path in SOURCES]
    for source, made in zip(SOURCES, objects, strict=True):
        gcc("-c", source, "-o", made)
    return objects


def run(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], capture_output=True, text=True, check=False)


# emulated instructions read and write element by element, so an access that a mask misses is seen
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="fp32"),
        pytest.param(
            ("-DBFLOAT16", "-DPRODUCTS", "-U__AMX_BF16__", "-mno-avx512f", *EMULATED_AVX512),
            id="AVX-512",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("-DBFLOAT16", "-DPRODUCTS", "-mno-avx512f", *EMULATED_AVX512, *EMULATED_AMX),
            id="AMX",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_no_kernel_leaves_its_arrays_or_does_what_c_leaves_undefined(
    flags: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    sources = SOURCES if flags else request.getfixturevalue("fp32")
    done = run(compiled(tmp_path / "sanitize", flags, [HEADERS / "sanitize.c", *sources]))
    assert done.returncode == 0, done.stderr[:2000]


def test_the_sanitizers_see_an_array_that_is_one_element_short(
    tmp_path: Path, fp32: list[Path]
) -> None:
    driver = (HEADERS / "sanitize.c").read_text()
    short = tmp_path / "short.c"
    short.write_text(driver.replace("*bias = floats(width)", "*bias = floats(width - 1)"))
    done = run(compiled(tmp_path / "sanitize", (), [short, *fp32]))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
