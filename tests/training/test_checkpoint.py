import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from graphattn.training import checkpoint
from graphattn.training.checkpoint import (
    check_identity,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    write_bytes,
)


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes half of the bytes, then fails as a full disk does."""

    def half(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_flushed", half)


def test_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"epoch": 3, "w": torch.ones(5)})
    fill_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left.*previous file is intact.*--resume"):
        save_checkpoint(path, {"epoch": 4, "w": torch.zeros(5)})
    assert load_checkpoint(path)["epoch"] == 3
    assert [item.name for item in tmp_path.iterdir()] == ["checkpoint.pt"]
    with pytest.raises(OSError, match="nothing was written"):
        write_bytes(tmp_path / "other", b"12")


def test_truncated_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"w": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="not a complete checkpoint.*--out"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")


def test_no_code_is_run_on_loading(tmp_path: Path) -> None:
    torch.save({"evil": Path("x")}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_identity_names_both_sides() -> None:
    held = {"model.name": "gcn", "model.layers": 3, "model.width": 8}
    check_identity(Path("c"), held, dict(held))
    wanted = {"model.name": "gt", "model.layers": 4, "model.width": 8}
    with pytest.raises(ValueError, match="holds model 'gcn' .*asks for model 'gt' ") as error:
        check_identity(Path("c"), held, wanted)
    assert "model.layers 3" in str(error.value)
    assert "model.layers 4" in str(error.value)
    assert "width" not in str(error.value)


def test_truncated_weights(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, nn.Linear(3, 2).state_dict(), {})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"is damaged .*--config .*config\.yaml --out NEW"):
        load_weights(path, nn.Linear(3, 2))


def test_weights_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    save_weights(path, source.state_dict(), {"epoch": "1"})
    load_weights(path, target)
    assert torch.equal(source.weight, target.weight)
    for other in (nn.Linear(4, 2), nn.Sequential(nn.Linear(3, 2))):
        with pytest.raises(ValueError, match=r"does not fit a .*; drop the --model") as error:
            load_weights(path, other)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="trained weights"):
        load_weights(tmp_path / "absent", target)
