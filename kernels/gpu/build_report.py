"""Compile the kernels ahead of time and print what the compilers made of them; needs no GPU.

    python -m graphattn.kernels.gpu.build_report [--targets sm_80 sm_90 gfx942] [--quick]
    python -m graphattn.kernels.gpu.build_report --out examples/bench/results/builds.md

Columns: registers per thread, bytes spilled, shared memory, programs resident on one SM (CU),
SASS instructions per edge of the main loop (NVIDIA only) and gathered bytes in flight per SM.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from graphattn.kernels.gpu.arguments import accumulator
from graphattn.kernels.gpu.attention import attention_backward, attention_forward
from graphattn.kernels.gpu.launch import Launch, compile_options, recording
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Results, Score

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED = {80: 164 * 1024, 90: 228 * 1024}
"""Bytes of shared memory of an SM; 1024 of them are taken for each program."""
WIDTHS = ((8, 16), (4, 32), (1, 64), (8, 64), (2, 128))
DTYPES = ("bfloat16", "float16", "float32", "float64")
OPTIONS = (
    "plain", "bias", "table", "gate", "edge", "dropout", "clamp", "gated", "mask", "all", "scores",
    "scores-all", "edge-all",
)  # fmt: skip
COLUMNS = (
    "target", "dtype", "HxD", "option", "kernel", "warps", "slots", "regs", "spilled B", "smem B",
    "programs/SM", "inst/edge", "KB in flight/SM",
)  # fmt: skip
SPILLED = COLUMNS.index("spilled B")
LEGEND = """\
- compiled ahead of time: no GPU is needed, and nothing here was timed
- regs: registers of a thread; spilled B: bytes of a thread in local memory
- programs/SM: how many fit on an SM (CU) by registers, shared memory and warps
- inst/edge: instructions of a warp in the main loop for each edge of it; for each partial result
  in a merge (NVIDIA only)
- KB in flight/SM: what 16-byte gathers of the main loop have asked for before the first is read,
  over all programs of an SM (NVIDIA only)
"""
_POINTER = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}


class Build(NamedTuple):
    """What one kernel compiled to."""

    kernel: str
    registers: int
    spilled: int
    shared: int
    programs: int
    loop: int
    edges: int
    in_flight: int


def meta_graph(num_rows: int, num_edges: int, chunks: int) -> Layout:
    """A layout of shapes alone: with ``chunks`` hub chunks in two merge levels."""

    def empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    slots = -(-num_rows // 32) * 32 + chunks
    plan = (empty(3, slots), empty(3, max(chunks // 32, 0)), empty(3, min(chunks // 32, 1)))
    return Layout(empty(num_rows + 1), empty(num_edges, dtype=torch.int32), empty(num_edges), plan)


def launches(
    dtype: torch.dtype,
    heads: int,
    dk: int,
    dv: int,
    option: str,
    warp_size: int,
    chunks: int = 64,
) -> list[Launch]:
    """Every kernel launch of a forward and a backward pass with one option, on meta tensors.

    "scores" is a call without a value; "-all" adds the other options to it, or to edge features.
    """
    batch, num_rows, num_edges, num_types = 1, 1000, 16000, 9
    high = accumulator(dtype)
    words = {option, *option.split("-")}
    if "all" in words:
        words |= {"clamp", "mask", "dropout"}
        words |= {"bias"} if "edge" in words else {"table", "gate", "gated"}

    def make(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def given(names: set[str], *shape: int, dtype: torch.dtype = dtype) -> Tensor | None:
        return make(*shape, dtype=dtype) if words & names else None

    query, key = make(batch, num_rows, heads, dk), make(batch, num_rows, heads, dk)
    value = None if "scores" in words else make(batch, num_rows, heads, dv)
    table = given({"table"}, heads, num_types, dtype=high)
    score = Score(
        scale=0.25,
        clamp=5.0 if "clamp" in words else None,
        bias=given({"bias"}, num_edges, heads, dtype=high) if table is None else table,
        bias_index=given({"table"}, num_edges, dtype=torch.int64),
        gate=given({"gate", "gated"}, num_edges, heads, dk),
        edge_attr=given({"edge"}, num_edges, dk),
        edge_query=given({"edge"}, batch, num_rows, heads, dk),
        mask=given({"mask"}, batch, num_edges, -(-heads // 32), dtype=torch.int32),
        dropout_p=0.25 if "dropout" in words else 0.0,
        streams=given({"dropout"}, batch * heads, 2, dtype=torch.int64),
    )
    layout = meta_graph(num_rows, num_edges, chunks)
    needs = tuple(
        t is not None for t in (score.bias, score.gate, score.edge_attr, score.edge_query)
    )
    with recording(warp_size) as found:
        done = attention_forward(query, key, value, layout, score, "gated" in words)
        grads = Results(*(None if t is None else torch.empty_like(t) for t in done))
        grads = grads._replace(lse=None)
        attention_backward(grads, query, key, value, done, layout, layout, score, needs)
    return found


def compile_ahead(launch: Launch, target: GPUTarget) -> Any:
    """Compile one recorded launch for a target, every pointer 16-byte aligned.

    Raises:
        TypeError: The launch names an argument that the kernel does not have.
    """
    unknown = launch.arguments.keys() - {parameter.name for parameter in launch.kernel.params}
    if unknown:
        raise TypeError(f"{launch.kernel.__name__} takes no {sorted(unknown)}; leave them out")
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    aligned: dict[tuple[int, ...], Any] = {}
    for position, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if isinstance(value, Tensor):
            signature[parameter.name] = _POINTER[value.dtype]
            aligned[(position,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[(position,)] = value
        else:
            signature[parameter.name] = parameter.annotation_type
    source = ASTSource(launch.kernel, signature, constants, aligned)
    options = compile_options(launch.num_warps, launch.max_registers, target.backend == "hip")
    return triton.compile(source, target=target, options=options)


def inspect(launch: Launch, compiled: Any, target: GPUTarget) -> Build:
    """Registers, spills, shared memory, residency and loop length of a compiled kernel."""
    slots = launch.arguments.get("SLOTS", 1)
    edges = slots * launch.arguments["UNROLL"]
    shared = compiled.metadata.shared
    threads = launch.num_warps * target.warp_size
    if target.backend == "hip":
        text = compiled.asm["amdgcn"]
        # Scalars that wait in lanes of a vector register ("sgpr_spill_count") touch no memory.
        registers, spilled = _amd(text, "vgpr_count"), _amd(text, "private_segment_fixed_size")
        spilled = max(spilled, 4 * _amd(text, "vgpr_spill_count"))
        waves = 4 * min(8, 512 // max(8, -(-registers // 8) * 8))
        programs, loop, flying = min(waves // launch.num_warps, 65536 // max(shared, 1)), 0, 0
    else:
        registers, spilled, body = _nvidia(compiled.asm["cubin"])
        programs = resident(registers, shared, launch.num_warps, SHARED[target.arch])
        loop, flying = len(body) * launch.num_warps, _in_flight(body) * threads * programs
    name = launch.kernel.__name__
    return Build(name, registers, spilled, shared, programs, loop, edges, flying)


def resident(registers: int, shared: int, warps: int, capacity: int) -> int:
    """Programs that fit on one of NVIDIA's SMs with ``capacity`` bytes of shared memory.

    Each of its four parts has 16384 registers, handed out to a warp 256 at a time.
    """
    per_warp = 32 * max(8, -(-registers // 8) * 8)
    return min(32, 64 // warps, 16384 // per_warp * 4 // warps, capacity // (shared + 1024))


def _amd(text: str, field: str) -> int:
    return int(re.search(rf"\.{field}:\s+(\d+)", text)[1])


def _nvidia(cubin: bytes) -> tuple[int, int, list[str]]:
    """Registers, bytes spilled (stack plus local) and the instructions of the longest loop."""
    text = disassembled(cubin)
    numbers = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))
    spilled = int(numbers["STACK"]) + int(numbers["LOCAL"])
    return int(numbers["REG"]), spilled, _longest_loop(text)


@lru_cache(maxsize=32)
def disassembled(cubin: bytes) -> str:
    """Resource usage and instructions of NVIDIA's machine code.

    The last ones are kept: it takes half a second, and many calls end with the same merges.
    """
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-sass", "--dump-resource-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _longest_loop(sass: str) -> list[str]:
    """Instructions of the longest loop without another one inside."""
    code = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?;)", sass)
    longest, inside = range(0), range(0)
    for position, (address, text) in enumerate(code):
        branch = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        length = (int(address, 16) - int(branch[1], 16)) // 16 + 1 if branch else 0
        loop = range(position + 1 - length, position + 1)
        if length > len(longest) and not (inside and loop.start <= inside.start):
            longest = loop
        if length > 0:
            inside = loop
    return [code[position][1] for position in longest]


def _in_flight(body: list[str]) -> int:
    """Most bytes per thread loaded but not yet read, in a linear walk over 16-byte loads."""
    waiting: set[int] = set()
    most = 0
    for text in body:
        load = re.search(r"\bLDG\.E\.128\S*\s+R(\d+)", text)
        if load:
            waiting.add(int(load[1]))
            most = max(most, len(waiting))
            continue
        read = {int(register) for register in re.findall(r"\bR(\d+)", text)}
        waiting = {first for first in waiting if not read & set(range(first, first + 4))}
    return 16 * most


def report(
    targets: list[str], dtypes: list[str], widths: tuple[tuple[int, int], ...], options: list[str]
) -> Iterator[tuple[str, ...]]:
    """Rows of the table; merges that compiled to the same figures appear once."""
    seen = set()
    for name in targets:
        target = TARGETS[name]
        for dtype in (getattr(torch, text) for text in dtypes):
            for heads, width in widths:
                for option in options:
                    for row in _rows_of(name, target, dtype, heads, width, option):
                        if row not in seen:
                            yield row
                        seen.add(row)


def _rows_of(
    name: str, target: GPUTarget, dtype: torch.dtype, heads: int, width: int, option: str
) -> Iterator[tuple[str, ...]]:
    for launch in launches(dtype, heads, width, width, option, target.warp_size):
        if launch.kernel.__name__.startswith("merge") and option != "plain":
            continue
        build = inspect(launch, compile_ahead(launch, target), target)
        per_edge = f"{build.loop / build.edges:.1f}" if build.loop else "-"
        yield (
            name, str(dtype).removeprefix("torch."), f"{heads}x{width}", option, build.kernel,
            f"w{launch.num_warps}", str(launch.arguments.get("SLOTS", 1)), str(build.registers),
            str(build.spilled), str(build.shared), str(build.programs), per_edge,
            f"{build.in_flight / 1024:.0f}" if build.in_flight else "-",
        )  # fmt: skip


def lines(targets: list[str], dtypes: list[str], quick: bool, options: list[str]) -> Iterator[str]:
    """The table in Markdown, below the version that it belongs to."""
    yield f"Triton {triton.__version__}"
    yield ""
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|" + "---|" * len(COLUMNS)
    every = list(OPTIONS) if "every" in options else options
    for row in report(targets, dtypes, WIDTHS[:1] if quick else WIDTHS, every):
        yield "| " + " | ".join(row) + " |"


def main() -> None:
    """Print the table and fail if anything spills."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--options", nargs="+", default=["plain"], choices=(*OPTIONS, "every"))
    parser.add_argument("--quick", action="store_true", help="one width only")
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    chosen = parser.parse_args()
    printed = []
    for line in lines(chosen.targets, chosen.dtypes, chosen.quick, chosen.options):
        print(line, flush=True)
        printed.append(line)
    if chosen.out:
        command = " ".join(["python -m graphattn.kernels.gpu.build_report", *sys.argv[1:]])
        head = ["# What the row and column kernels compile to", "", f"`{command}`", ""]
        chosen.out.write_text("\n".join([*head, *printed, "", LEGEND]))
    spilled = sum(int(line.split(" | ")[SPILLED]) for line in printed[4:])
    if spilled:
        raise SystemExit(f"{spilled} bytes spilled in all")


if __name__ == "__main__":
    main()
