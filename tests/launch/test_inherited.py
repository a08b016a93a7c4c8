"""What engines get of the user's shell."""

import os
import pwd
import subprocess
import sys

import pytest

from launch.engines.environment import engine_env
from launch.engines.inherited import LONGEST_FOLDER, cache_folder, inherited, short_temporary
from launch.engines.verl.forkserver import _write_client
from launch.errors import LaunchError


def test_a_local_run_ignores_the_address_of_a_cluster(tiny_recipe):
    shell = {"RAY_ADDRESS": "10.0.0.1:6379", "CUDA_VISIBLE_DEVICES": "", "MINE": "kept"}
    env = inherited(tiny_recipe(), shell)
    assert "RAY_ADDRESS" not in env and "CUDA_VISIBLE_DEVICES" not in env and env["MINE"] == "kept"
    joined = inherited(
        tiny_recipe("cluster.address=auto", "cluster.device=cuda"), shell | {"CUDA_VISIBLE_DEVICES": "3"}
    )
    assert joined["RAY_ADDRESS"] == "10.0.0.1:6379" and joined["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(("given", "threads"), [("4,2", "4"), ("1", "1"), (" 3 ", "3")])
def test_threads_per_level_are_those_of_the_first(tiny_recipe, given, threads):
    assert inherited(tiny_recipe(), {"OMP_NUM_THREADS": given})["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize("given", ["", "many", "0", "-1"])
def test_threads_that_are_no_number_are_named(tiny_recipe, given):
    with pytest.raises(LaunchError, match=rf"OMP_NUM_THREADS={given}: set a number"):
        inherited(tiny_recipe(), {"OMP_NUM_THREADS": given})


def test_no_proxy_is_asked_for_this_machine(tiny_recipe):
    env = inherited(tiny_recipe(), {"https_proxy": "http://proxy:3128", "no_proxy": "intranet,localhost"})
    assert env["no_proxy"] == "intranet,localhost,127.0.0.1,::1"
    assert env["NO_PROXY"] == "127.0.0.1,localhost,::1"


def test_caches_lie_in_one_folder_and_the_users_own_choice_stays(tiny_recipe, tmp_path):
    shell = {"HOME": "/dev/null", "CAMREASONER_CACHE": str(tmp_path / "cache"), "TRITON_CACHE_DIR": "/t"}
    env = inherited(tiny_recipe(), shell)
    assert env["HF_DATASETS_CACHE"] == str(tmp_path / "cache/datasets") and env["TRITON_CACHE_DIR"] == "/t"
    assert "HF_HOME" not in env, "models are shared with other projects"
    assert cache_folder({}).name == ".cache"
    with pytest.raises(LaunchError, match=r"cache folder /dev/null/cache: Not a directory: set CAMREASONER_CACHE"):
        inherited(tiny_recipe(), {"CAMREASONER_CACHE": "/dev/null/cache"})


def test_a_user_without_a_name_gets_one(tiny_recipe, monkeypatch):
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert inherited(tiny_recipe(), {})["USER"] == f"user{os.getuid()}"
    assert inherited(tiny_recipe(), {"USER": "me"})["USER"] == "me"


@pytest.mark.parametrize("characters", [5, 16, 17, 60])
def test_a_temporary_folder_has_room_for_sockets(tmp_path, monkeypatch, characters):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/" + "x" * (characters - 1))
    folder = short_temporary("camreasoner-0123456789")
    assert len(str(folder)) <= LONGEST_FOLDER
    assert str(folder).startswith("/x") == (characters <= 16)


def test_rays_workers_keep_their_priority(tiny_recipe):
    assert engine_env(tiny_recipe())["RAY_worker_niceness"] == "0"


def test_paths_with_spaces_reach_the_fork_servers_client(tmp_path, monkeypatch):
    folder = tmp_path / "a folder's name"
    folder.mkdir()
    python = folder / "python 3"
    python.symlink_to(sys.executable)
    monkeypatch.setattr("sys.executable", str(python))
    client = _write_client(str(folder), str(folder / "fork_server"))
    said = subprocess.run([client, "-c", "pass"], capture_output=True, text=True)
    assert "fork_server" not in said.stdout and "FileNotFoundError" in said.stderr  # of the socket; sh found the rest
