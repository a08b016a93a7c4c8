"""Values with the characters of paths and of prose reach the recipe as they were written, on every way."""

import json
import os
import shlex
import signal
import subprocess
import sys
from operator import attrgetter
from os.path import expanduser

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from launch import slurm
from launch.cluster import jobs
from launch.compose import compose_complete, compose_config, experiments
from launch.overrides import quoted
from launch.recipe import ROOT, RecipeError

AWKWARD = ["~/a", "/a b", "/a=b", "/a#b", "/a(b)", "/für/ä", "/视频", "/it's", '/a"b', "/a;b&c", "/[a]", "/a\\", "2024"]
KEYS = ["data.media_root", "prompt.system"]
GPU = ["experiment=camreasoner", "cluster=ray_cluster", "data.files={sft: /s, rl: /r, test: /t}"]


def value(key: str, overrides: list[str]) -> str:
    recipe = compose_complete(["experiment=camreasoner", "data.media_root=/m", GPU[2], *overrides])
    return attrgetter(key)(recipe)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("text", [*AWKWARD, "/a,b"])
def test_a_text_reaches_the_recipe_as_it_was_written(key, text):
    given = quoted([f"{key}={text}"])
    assert quoted(given) == given and value(key, given) == (text if key == "prompt.system" else expanduser(text))


@pytest.mark.parametrize("text", AWKWARD)
def test_in_a_sweep_too(text):
    flag, given, swept = quoted(["-m", f"data.media_root={text}", "seed=0,1"])
    assert (flag, swept) == ("-m", "seed=0,1") and value("data.media_root", [given]) == expanduser(text)


def test_hydras_own_syntax_stays():
    own = ["seed=range(0,3)", "data.files={sft: a, rl: [b]}", "name=${experiment}", "data.media_root=null", "+a.b=1"]
    own += ["prompt.system='a b'", "eval.models=[base, rl]", "~judge", "--cfg", "rl.kl_coef=1e-3"]
    assert quoted(own) == own
    assert quoted(["-m", "runs=/a,/b"]) == ["-m", "runs=/a,/b"] and quoted(["runs=/a,/b"]) == ["runs='/a,/b'"]


@pytest.mark.parametrize("text", ["/a b", "/a=b", "/a#b", "/a,b", "/a(b)", "/für/视频", "/it's"])
def test_a_job_and_a_slurm_script_carry_it(text):
    given = [*GPU, *quoted([f"data.media_root={text}"]), "runs=/shared"]
    recipe = compose_complete(given)
    for line in (
        jobs.entrypoint("rl", given, recipe, "python"),
        next(line for line in slurm.render(recipe, given, "python").splitlines() if "-m launch.rl " in line),
    ):
        arrived = quoted(shlex.split(line)[3:])
        read = {o.get_key_element(): o.value() for o in OverridesParser.create().parse_overrides(arrived)}
        assert read["data.media_root"] == text


@pytest.mark.parametrize("text", ["~/a", "/a b", "/a=b", "/a(b)", "/für", "/a,b", "/a#b"])
def test_make_passes_it_on(text):
    """ARGS is text for the shell, so it is quoted for the shell."""
    makefile = (
        f"include {ROOT}/Makefile\nshow:\n\t@{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv))' $(RUN)"
    )
    line = ["make", "-s", "-f", "-", "show", f"ARGS={shlex.quote(f'data.media_root={text}')}"]
    done = subprocess.run(line, input=makefile, capture_output=True, text=True, cwd=ROOT)
    assert json.loads(done.stdout)[-1] == f"data.media_root={text}", done.stderr


def test_a_command_takes_it():
    line = [sys.executable, "-m", "launch.rl", "--cfg", "job", "runs=~/a (b), für", "name=2024"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert "runs: ~/a (b), für" in done.stdout and "name: '2024'" in done.stdout, done.stderr


def test_what_cannot_be_read_says_how_to_quote():
    with pytest.raises(RecipeError, match="Quote a text inside a list"):
        compose_complete(["data.files={sft: ~/a}"])


def test_an_experiment_may_lie_outside_the_checkout(tmp_path, monkeypatch):
    folder = tmp_path / "my recipes" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\ndefaults: [demo]\nexperiment: mine\n")
    command = [sys.executable, "-m", "launch.data", "experiment=mine", "--cfg", "job"]
    env = os.environ | {"CAMREASONER_RECIPES": str(folder.parent)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "experiment: mine" in done.stdout, done.stderr
    monkeypatch.setenv("CAMREASONER_RECIPES", str(folder.parent))
    assert compose_complete(["experiment=mine"]).experiment == "mine" and {"mine", "demo"} <= set(experiments())
    (folder.parent / "media").mkdir()
    (folder.parent / "media" / "short.yaml").write_text((ROOT / "recipes/media/tiny.yaml").read_text())
    chosen = compose_complete(["experiment=mine", "+eval.sets.more={files: a.jsonl, media: short}"])
    assert chosen.eval.sets["more"].media == chosen.media
    monkeypatch.setenv("CAMREASONER_RECIPES", str(tmp_path / "gone"))
    with pytest.raises(RecipeError, match="gone is not a folder"):
        compose_complete(["experiment=demo"])


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    from data_tools.cli import guarded

    def interrupted():
        raise KeyboardInterrupt

    assert guarded(interrupted) == 130 and capsys.readouterr().err == "interrupted\n"


STAGE = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # what nohup starts ignores it
from launch.command import hydra_command
from launch.console import console
def work(config):
    try:
        console.print("→ at work")
        print("ready", flush=True)  # not by rich, whose buffer a signal in the midst of a print would leave behind
        time.sleep(60)
    finally:
        console.print("cleaned up")
sys.argv[1:] = []
hydra_command(work, stages=["rl"])()
"""


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_stage_in_one_line_that_says_how_to_go_on(number):
    """On a console without Unicode and without a terminal, too."""
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", STAGE], cwd=ROOT, env=env, **pipes)
    assert [process.stdout.readline() for _ in range(2)] == ["? at work\n", "ready\n"]
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    told = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert (process.returncode, out, err) == (128 + number, "cleaned up\n", f"{told}; the same command goes on\n")


def test_a_reader_that_has_gone_ends_no_stage():
    code = "import sys\nfrom launch.console import console\nsys.stdin.read()\n"
    code += "console.print('lost')\nconsole.print('lost')\nprint('on', file=sys.stderr)"
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes)
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == "on\n" and process.wait() == 0


def test_a_key_of_a_set_that_its_recipe_does_not_give_is_added():
    given = ["experiment=videop2r", "eval=videop2r_published", "eval.sets.mvbench.only=[action_count]"]
    with pytest.raises(RecipeError, match=r"use \+eval.sets.mvbench.only"):
        compose_config(given)
    assert compose_config([*given[:2], f"+{given[2]}"]).eval.sets.mvbench.only == ["action_count"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("experiment=nope", ("Could not find 'experiment/nope'", "camreasoner")),
        ("rl.stepz=3", ("Could not override 'rl.stepz'",)),
        ("rl=[", ("no viable alternative", "Quote")),
    ],
)
def test_hydras_own_errors_say_what_is_wrong_and_no_more(given, said):
    with pytest.raises(RecipeError) as error:
        compose_config([given])
    told = str(error.value)
    assert all(words in told for words in said)
    assert not any(noise in told for noise in ("hydra.cc", "search path", "object_type", "use +", "\n\n"))
