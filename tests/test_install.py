"""The installer, beside a copy of the locks; nothing is installed."""

import importlib.util
import platform
import shutil
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def install(tmp_path, monkeypatch) -> ModuleType:
    """Its module over an empty checkout, on a machine without a GPU; `commands` has what it would run."""
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    spec = importlib.util.spec_from_file_location("install", tmp_path / "requirements" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.commands = []
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    monkeypatch.setattr(module, "run", module.commands.append)
    monkeypatch.setattr(module, "FREE_GB", {"cpu": 0, "gpu": 0})
    monkeypatch.setattr(module, "has_gpu", lambda: False)
    monkeypatch.setattr(module, "driver", lambda: None)
    return module


def installed(install: ModuleType) -> str:
    return (install.ROOT / ".venv" / "installed").read_text().split()[0]


def test_a_machine_without_a_gpu_keeps_the_gpu_packages(install, capsys):
    """A login node, on the file system that the GPU nodes share."""
    install.main("gpu")
    assert installed(install) == "gpu" and len(install.commands) == 2
    assert "driver 580 or later" in capsys.readouterr().out
    install.main(None)
    assert installed(install) == "gpu" and len(install.commands) == 2


def test_a_new_lock_updates_the_set_that_is_installed(install):
    install.main("gpu")
    (install.ROOT / "requirements" / "gpu.txt").write_text("changed")
    install.main(None)
    assert installed(install) == "gpu" and len(install.commands) == 4
    assert str(install.ROOT / "requirements" / "gpu.txt") in install.commands[-1]


@pytest.mark.parametrize(("gpu", "expected"), [(True, "gpu"), (False, "cpu")])
def test_the_first_set_is_that_of_the_machine(install, monkeypatch, gpu, expected):
    monkeypatch.setattr(install, "has_gpu", lambda: gpu)
    install.main(None)
    assert installed(install) == expected


def test_the_set_that_is_asked_for_is_installed(install):
    install.main("gpu")
    install.main("cpu")
    assert installed(install) == "cpu"
    with pytest.raises(SystemExit, match="choose cpu or gpu"):
        install.main("tpu")


def test_what_a_machine_lacks_is_said_before_the_download(install, monkeypatch, capsys):
    monkeypatch.setattr(install, "driver", lambda: "570.86.15")
    install.main("gpu")
    assert "warning: driver 570.86.15 is older than 580" in capsys.readouterr().out
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.17"))
    with pytest.raises(SystemExit, match=r"glibc 2\.17; the packages need 2\.28"):
        install.main("cpu")
    monkeypatch.setattr(install, "FREE_GB", {"cpu": 10**9})
    with pytest.raises(SystemExit, match="GB free"):
        install.main("cpu")


def test_an_installation_that_broke_off_is_taken_up(install, monkeypatch):
    def broken(command: list[str]) -> None:
        raise SystemExit("error: the network")

    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="the network"):
        patched.setattr(install, "run", broken)
        install.main("gpu")
    install.main(None)
    assert installed(install) == "gpu" and len(install.commands) == 2
