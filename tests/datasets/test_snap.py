"""SNAP edge lists in both forms: miniatures, damage, and the published sizes of the real ones."""

import gzip
from pathlib import Path

import pytest
import torch
from torch_geometric.utils import is_undirected

from graphattn.datasets import snap

# 1-based, five nodes of which node 3 is isolated; a self-loop, a duplicate, a pair both ways.
LINES = ["1,2", "2,2", "5,1", "1,2", "4,5", "5,4"]


def write(path: Path, text: str) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))
    return path.read_bytes()


def pairs(edge_index: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(pair) for pair in edge_index.t().tolist()]


@pytest.mark.parametrize("place", ["email-enron.jlg", "email-enron/raw/email-enron.jlg"])
def test_directed_jlg_is_as_in_the_file(tmp_path: Path, place: str) -> None:
    write(tmp_path / place, "\n".join(["5,6,d,graph,2,Int64,simplegraph", *LINES]))
    found = snap.load("email-enron", tmp_path, download=False)
    assert pairs(found.data.edge_index) == [(0, 1), (1, 1), (4, 0), (0, 1), (3, 4), (4, 3)]
    assert found.data.num_nodes == 5 and found.data.x is None
    assert found.data.y.tolist() == [-1] * 5 and found.splits == [] and found.num_classes == 0
    both = snap.load("email-enron", tmp_path, download=False, undirected=True)
    assert pairs(both.data.edge_index) == [(0, 1), (0, 4), (1, 0), (1, 1), (3, 4), (4, 0), (4, 3)]


def test_undirected_jlg_is_returned_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "astro-ph-cc1.jlg", "5,3,u,graph\n1,2\n2,2\n5,1\n")
    found = snap.load("astro-ph-cc1", tmp_path, download=False)
    assert pairs(found.data.edge_index) == [(0, 1), (0, 4), (1, 0), (1, 1), (4, 0)]
    assert "astro-ph-cc1: 3 edges in the file, 5 returned" in capsys.readouterr().err


@pytest.mark.parametrize("undirected", [False, True])
def test_snap_text_is_renumbered(tmp_path: Path, undirected: bool) -> None:
    kind = "Undirected" if undirected else "Directed"
    head = f"# {kind} graph: toy\n# Nodes: 3 Edges: 3\n# FromNodeId\tToNodeId\n"
    write(tmp_path / "ca-GrQc.txt.gz", head + "900\t7\n7\t7\n12\t900\n")
    found = snap.load("ca-GrQc", tmp_path, download=False)
    assert found.data.original_id.tolist() == [7, 12, 900]
    once = [(2, 0), (0, 0), (1, 2)]
    both = [(0, 0), (0, 2), (1, 2), (2, 0), (2, 1)]
    assert pairs(found.data.edge_index) == (both if undirected else once)


def test_text_form_is_taken_where_the_jlg_is_not_there(tmp_path: Path) -> None:
    write(tmp_path / "email-Enron.txt.gz", "# Directed graph\n0\t1\n1\t0\n")
    found = snap.load("email-enron", tmp_path, download=False)
    assert pairs(found.data.edge_index) == [(0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5,7,d,graph\n" + "\n".join(LINES), "declares 7 edges and holds 6; delete it"),
        ("5,1,d,graph\n1,x\n", r"\.jlg .*delete it and fetch it again"),
        ("5,1,d,graph\n", r"\.jlg .*no numbers in it"),
        ("not a header\n1,2\n", r"\.jlg .*delete it and fetch it again"),
        ("2,1,d,graph\n1,3\n", r"edge_index holds 2, expected 0\.\.1"),
    ],
)
def test_wrong_contents(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "ca-condmat-cc1.jlg", text)
    with pytest.raises(ValueError, match=message):
        snap.load("ca-condmat-cc1", tmp_path, download=False)


@pytest.mark.parametrize("name", ["email-enron.jlg", "email-Enron.txt.gz"])
def test_truncated_gzip(tmp_path: Path, name: str) -> None:
    lines = "\n".join(f"{i},{i + 1}" for i in range(1, 4000))
    lines = lines if name.endswith("jlg") else lines.replace(",", "\t")
    content = write(tmp_path / name, f"4000,3999,d,graph\n{lines}\n" if "jlg" in name else lines)
    for cut in (content[: len(content) // 2], content[:-4], b"", b"<html>"):
        (tmp_path / name).write_bytes(cut)
        with pytest.raises(ValueError, match=r"email.*delete it and fetch it again"):
            snap.load("email-enron", tmp_path, download=False)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file wiki-Vote\.txt\.gz in .*snap\.stanford"):
        snap.load("wiki-Vote", tmp_path, download=False)


# name, nodes, edges in the file, edges returned (self-loops are not doubled), self-loops
REAL = [
    ("arxiv-cit-hep-ph", 34546, 421578, 421578, 44),
    ("as-caida20071105", 26475, 53381, 106762, 0),
    ("astro-ph-cc1", 17903, 197031, 394003, 59),
    ("ego-twitter-undirected", 81306, 1342310, 2684606, 14),
    ("email-enron", 36692, 183831, 367662, 0),
]


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "n", "stored", "returned", "loops"), REAL)
def test_published_counts(
    data_root: Path, name: str, n: int, stored: int, returned: int, loops: int
) -> None:
    found = snap.load(name, data_root / "snap", download=False)
    edges = found.data.edge_index
    assert found.data.num_nodes == n and edges.shape[1] == returned
    assert found.edge_note.startswith(f"{stored:,} edges in the file")
    assert int((edges[0] == edges[1]).sum()) == loops
    assert is_undirected(edges) == (stored != returned)
