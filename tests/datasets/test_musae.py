"""MUSAE's csv and json files: miniatures, damage, an archive, the real GitHub graph."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from torch_geometric.utils import is_undirected

from graphattn.datasets import musae

# Node 3 is isolated, node 2 has a self-loop, node 1 lists a word twice, node 4 has no words.
FEATURES = {"0": [4004, 1], "1": [7, 7, 2], "2": [0], "3": [5], "4": []}
EDGES = "id_1,id_2\n0,1\n4,1\n2,2\n0,4\n"
TARGET = "id,name,ml_target\n" + "".join(f'{i},"a, ""{i}"" 中",{i % 2}\n' for i in range(5))


def write(folder: Path, **changes: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = {"edges_csv": EDGES, "features_json": json.dumps(FEATURES), "target_csv": TARGET}
    for name, text in (files | changes).items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")


def test_miniature_github(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "github")
    found = musae.load("github", tmp_path, download=False)
    pairs = sorted(map(tuple, found.data.edge_index.t().tolist()))
    assert pairs == [(0, 1), (0, 4), (1, 0), (1, 4), (2, 2), (4, 0), (4, 1)]
    assert "github: 4 edges in the file, 7 returned" in capsys.readouterr().err
    words = [found.data.x[i].nonzero().flatten().tolist() for i in range(5)]
    assert words == [[1, 4004], [2, 7], [0], [5], []]
    assert found.data.x.shape == (5, 4005) and float(found.data.x.max()) == 1
    assert found.data.y.tolist() == [0, 1, 0, 1, 0] and found.metric == "acc"
    assert [len(part) for part in found.splits[0].values()] == [3, 1, 1]


def test_miniature_twitch_lists_a_node_twice(tmp_path: Path) -> None:
    lines = [f"{900 + i},10,{bool(i % 2)},5,False,{i}" for i in (3, 1, 4, 0, 2)]
    target = "\n".join(["id,days,mature,views,partner,new_id", *lines, lines[0]])
    features = json.dumps(FEATURES | {"0": [3169]})
    write(tmp_path / "twitch_FR", target_csv=target, features_json=features)
    found = musae.load("twitch_FR", tmp_path, download=False)
    assert found.data.y.tolist() == [0, 1, 0, 1, 0] and found.data.x.shape == (5, 3170)


def test_miniature_facebook_names_classes_in_order(tmp_path: Path) -> None:
    kinds = ["tvshow", "company", "politician", "company", "tvshow"]
    target = "id,facebook_id,page_name,page_type\n" + "".join(
        f"{i},1,x,{kind}\n" for i, kind in enumerate(kinds)
    )
    write(tmp_path / "facebook", target_csv=target)
    for seed in range(20):  # five nodes, three classes: most draws miss a class in training
        try:
            found = musae.load("facebook", tmp_path, download=False, seed=seed)
        except ValueError as error:
            assert "use another seed" in str(error)
        else:
            break
    assert found.data.y.tolist() == [2, 0, 1, 0, 2] and found.num_classes == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features_json": '{"0": [1, 2'}, r"features\.json .*delete it and fetch it again"),
        ({"features_json": '{"0": [4005]}'}, r"names word 4005, expected 0\.\.4004 for github"),
        ({"features_json": '{"5": [1]}'}, r"names node 5, expected 0\.\.4 for github"),
        ({"features_json": "[1]"}, r"features\.json .*delete it and fetch it again"),
        ({"edges_csv": "id_1,id_2\n0,1\n3,"}, r"edges\.csv .*delete it and fetch it again"),
        ({"edges_csv": "id_1,id_2\n"}, r"edges\.csv .*no numbers in it"),
        ({"edges_csv": "id_1,id_2\n0,5\n"}, r"edge_index holds 5, expected 0\.\.4"),
        ({"target_csv": "id,name,ml_target\n0,a,1\n3,b,0\n"}, "no line for node 1 .2 nodes lack"),
        ({"target_csv": ""}, "no line for node 0"),
        ({"target_csv": "a,b\n1,2\n"}, r"target\.csv .*KeyError.*delete it and fetch it again"),
    ],
)
def test_damage(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    write(tmp_path / "github", **changes)
    with pytest.raises(ValueError, match=message):
        musae.load("github", tmp_path, download=False)


def test_missing_file(tmp_path: Path) -> None:
    write(tmp_path / "github")
    (tmp_path / "github" / "features.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file features\.json in .*git_web_ml\.zip"):
        musae.load("github", tmp_path, download=False)


def test_download_takes_three_files_out_of_one_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "server")
    monkeypatch.setattr(musae, "_URL", (tmp_path / "server").as_uri())
    archive = tmp_path / "server" / "git_web_ml.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("git_web_ml/README.txt", "not wanted")
        for file in ("edges.csv", "features.json", "target.csv"):
            members.write(tmp_path / "server" / file, f"git_web_ml/musae_git_{file}")
    found = musae.load("github", tmp_path / "root", download=True)
    names = sorted(path.name for path in (tmp_path / "root" / "github").iterdir())
    assert found.num_classes == 2 and names == ["edges.csv", "features.json", "target.csv"]
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"git_web_ml\.zip .*delete it and fetch it again"):
        musae.load("github", tmp_path / "other", download=True)
    assert not list((tmp_path / "other" / "github").iterdir())


@pytest.mark.shared_data
def test_github(data_root: Path) -> None:
    found = musae.load("github", data_root / "musae", download=False)
    assert list(found.data.x.shape) == [37700, 4005] and found.data.edge_index.shape[1] == 578006
    assert is_undirected(found.data.edge_index)
    assert torch.bincount(found.data.y).tolist() == [27961, 9739]
    # 690,374 words are listed, some twice by one node.
    assert 690_000 < int(found.data.x.sum()) < 690_374
