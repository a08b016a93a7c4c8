"""The embedded default: rendered clips, a local server that fails at times, and both papers' pipelines."""

from pathlib import Path
from typing import Any

from data_tools.rendered import RenderedSettings, build_rendered
from data_tools.synthesis.local_endpoint import LocalEndpoint, RenderedTeacher

CLIPS = {"clips": 45, "binary": 180, "choice": 45, "confusable": 0.5}
FEW = {"clips": 15, "binary": 2, "choice": 0}
FAULT_RATE = 0.1


def demo(overrides: list[str], console: Any) -> None:
    """Render clips, serve a teacher that knows them, and make the chains of both recipes under `out`.

    Overrides are those of the recipes; `endpoint.url` and `judge.url` point elsewhere than to the local server.
    """
    from data_tools.synthesis.__main__ import read_settings, run

    given = dict(each.split("=", 1) for each in overrides if "=" in each)
    out = Path(given.get("out", "runs/demo/synthesis")).expanduser()
    overrides = [each for each in overrides if not each.startswith("out=")]
    data = out / "data"
    console.print(f"rendering {CLIPS['clips']} clips")
    build_rendered(RenderedSettings(sft=CLIPS, rl=FEW, test=FEW), data)
    teacher = RenderedTeacher(data)
    with LocalEndpoint(teacher, fault_rate=FAULT_RATE) as server:
        console.print(f"local server {server.url}; one request in {1 / FAULT_RATE:.0f} fails, to be asked again")
        for name in ("camreasoner", "videop2r"):
            ours = [f"samples={data / 'sft.jsonl'}", f"media_root={data}", f"out={out / name}", "per_shard=64"]
            for client in ("endpoint", "judge"):
                ours += [f"{client}.url={server.url}", f"{client}.wait=0.05", f"{client}.concurrency=4"]
            ours.append(f"judge.cache={out / 'verdicts'}")
            run(read_settings(name, [*ours, *overrides]), console)
    if failed := dict(server.failures):
        console.print(f"faults mended on the way: {failed}")
