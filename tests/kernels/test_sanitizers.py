"""Every kernel under gcc's address and undefined-behaviour sanitizers, without Python."""

import subprocess
from pathlib import Path

import pytest

from tests.kernels.compiled import EMULATED_AMX, EMULATED_AVX512, HEADERS, KERNELS, kept
from tinygpt.kernels import build

pytestmark = pytest.mark.gcc

FLAGS = ("-Og", "-g1", "-fno-sanitize-recover=all", "-fopenmp")
ALL = "-fsanitize=address,undefined"
# without the checks of pointers, for which gcc takes as long again; address finds most of the same
MOST = (
    "-fsanitize=address,alignment,bounds,shift,signed-integer-overflow,integer-divide-by-zero,"
    "float-cast-overflow"
)


def gcc(*arguments: str | Path) -> list[str | Path]:
    return ["gcc", *build.FLAGS, *FLAGS, f"-I{build.SOURCES[0].parent}", *arguments]


def compiled(program: Path, flags: tuple[str, ...], sources: list[Path]) -> Path:
    """The program; skipped where gcc lacks the sanitizers, which are the first of the flags."""
    probe = program.with_name("probe.c")
    probe.write_text("int main(void) { return 0; }\n")
    command = ["gcc", flags[0], str(probe), "-o", str(probe.with_suffix(""))]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this gcc has no sanitizers")
    subprocess.run([*gcc(*flags, *sources, "-o", program, "-lm")], check=True)
    return program


@pytest.fixture(scope="module")
def fp32() -> list[Path]:
    """The kernels for fp32, compiled once for every program."""
    return [kept(gcc(MOST, "-c", source)) for source in KERNELS]


def run(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], capture_output=True, text=True, check=False)


# emulated instructions read and write element by element, so an access that a mask misses is seen
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((MOST,), id="fp32"),
        pytest.param((ALL,), id="fp32 with all checks", marks=pytest.mark.slow),
        pytest.param(
            (ALL, "-DBFLOAT16", "-DPRODUCTS", "-U__AMX_BF16__", "-mno-avx512f", *EMULATED_AVX512),
            id="AVX-512",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (ALL, "-DBFLOAT16", "-DPRODUCTS", "-mno-avx512f", *EMULATED_AVX512, *EMULATED_AMX),
            id="AMX",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_no_kernel_leaves_its_arrays_or_does_what_c_leaves_undefined(
    flags: tuple[str, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    sources = request.getfixturevalue("fp32") if flags == (MOST,) else KERNELS
    done = run(compiled(tmp_path / "sanitize", flags, [HEADERS / "sanitize.c", *sources]))
    assert done.returncode == 0, done.stderr[:2000]


def test_the_sanitizers_see_an_array_that_is_one_element_short(
    tmp_path: Path, fp32: list[Path]
) -> None:
    driver = (HEADERS / "sanitize.c").read_text()
    short = tmp_path / "short.c"
    short.write_text(driver.replace("*bias = floats(width)", "*bias = floats(width - 1)"))
    done = run(compiled(tmp_path / "sanitize", (MOST,), [short, *fp32]))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
