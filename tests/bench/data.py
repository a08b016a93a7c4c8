"""Data tools against plainer ways to do the same work, in one run: one `Row` each."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean

from data_tools.media.budget import Budget
from tests.bench.row import Row

RECORDS = 100_000
VIDEOS, SHARE = 200, 10  # videos that are normalised; as PNGs a tenth of them, its time taken tenfold
# ffmpeg's test sources, 10 seconds of 1080p each, as libx264 writes them without being told how
SOURCES = {"testsrc2": 30, "mandelbrot": 25, "smptehdbars": 24, "gradients": 30}
BUDGET = Budget(fps=1.0, max_frames=64, min_frames=4, max_pixels=262144, min_pixels=3136)  # CamReasoner's


def rows(seconds: Callable[[Callable[[], object]], float]) -> list[Row]:
    """`seconds` times a call."""
    with tempfile.TemporaryDirectory() as folder:
        videos = test_videos(Path(folder))
        return [*checking(seconds), normalising(videos), *reading(seconds, videos)]


def checking(seconds: Callable[[Callable[[], object]], float]) -> list[Row]:
    """The check of labels beside the least that any check does: to read every line as JSON once."""
    from data_tools.check import check_files
    from data_tools.sample import Sample

    record = Sample(
        id="a", video="a.mp4", question="?", options=["No", "Yes"], answer="A", task="binary", source="made", split="rl"
    ).model_dump(exclude_none=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.jsonl"
        with path.open("w") as out:
            for n in range(RECORDS):
                own = {"id": f"sample-{n}", "video": f"{n // 20}.mp4", "question": f"Does the camera move in {n}?"}
                out.write(json.dumps(record | own) + "\n")

        def read_json() -> None:
            with path.open("rb") as lines:
                for line in lines:
                    json.loads(line)

        checked = seconds(lambda: check_files([path], Path(folder) / "out"))
        return [Row(f"check of {RECORDS:,} records, labels only | json.loads", checked, seconds(read_json), 15)]


def ffmpeg(*arguments: str) -> None:
    import imageio_ffmpeg

    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments], check=True)


def test_videos(folder: Path) -> list[Path]:
    """VIDEOS files in a folder of their own, of different bytes, the kinds in turns."""
    kinds = []
    for source, rate in SOURCES.items():
        kinds.append(folder / f"{source}.mp4")
        picture = ("-f", "lavfi", "-i", f"{source}=size=1920x1080:rate={rate}", "-t", "10")
        ffmpeg(*picture, "-pix_fmt", "yuv420p", "-c:v", "libx264", str(kinds[-1]))
    (folder / "videos").mkdir()
    videos = [folder / "videos" / f"{number:03}.mp4" for number in range(VIDEOS)]
    for number, video in enumerate(videos):
        padding = (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")  # a box that no reader looks into
        video.write_bytes(kinds[number % len(kinds)].read_bytes() + padding)
    return videos


def normalising(videos: list[Path]) -> Row:
    """CamReasoner's budget, beside the original way: an ffmpeg process per video that writes PNGs at 1 fps."""
    from data_tools.media.normalise import Clip
    from data_tools.media.store import normalise_all
    from data_tools.sample import Cut

    folder, cores = videos[0].parent, len(os.sched_getaffinity(0))
    begin = time.perf_counter()
    made = normalise_all([Cut(video.name) for video in videos], folder, folder.parent / "store", BUDGET)
    assert all(isinstance(clip, Clip) for _, clip in made)
    camreasoner = time.perf_counter() - begin

    def pngs(video: Path) -> None:
        out = folder.parent / "png" / video.stem
        out.mkdir(parents=True)
        ffmpeg("-i", str(video), "-vf", "fps=1", str(out / "%05d.png"))

    begin = time.perf_counter()
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(pngs, videos[: VIDEOS // SHARE]))
    baseline = SHARE * (time.perf_counter() - begin)
    what = f"normalising {VIDEOS} clips of 1080p, 10 s | ffmpeg to PNGs, a process each"
    return Row(what, camreasoner, baseline, 0.33)


def reading(seconds: Callable[[Callable[[], object]], float], videos: list[Path]) -> list[Row]:
    """A normalised clip, beside its source at the same budget, through the stock loaders; means over the sources."""
    from llamafactory.data.mm_plugin import get_mm_plugin
    from qwen_vl_utils import fetch_video

    from data_tools.exports import video_item
    from data_tools.media.normalise import normalise
    from launch.engines.llamafactory.config import EVERY_FRAME

    store = videos[0].parent.parent / "store"
    names = "fps", "max_frames", "min_frames", "max_pixels", "min_pixels"
    asked = {name: getattr(BUDGET, name) for name in names}
    plugin = get_mm_plugin("qwen2_vl", image_token="<|image_pad|>", video_token="<|video_pad|>")

    def sft(path: Path, fps: float) -> Callable[[], object]:
        limits = {"image_max_pixels": BUDGET.max_pixels, "image_min_pixels": BUDGET.min_pixels}
        return lambda: plugin._regularize_videos([str(path)], video_fps=fps, video_maxlen=BUDGET.max_frames, **limits)

    times: dict[str, list[tuple[float, float]]] = {"verl": [], "LLaMA-Factory": []}
    for source in videos[: len(SOURCES)]:
        clip = normalise(source, BUDGET, store)
        item = video_item(store, clip)
        source_item = {"video": str(source), **asked}
        times["verl"].append((seconds(partial(fetch_video, item)), seconds(partial(fetch_video, source_item))))
        times["LLaMA-Factory"].append((seconds(sft(store / clip.video, EVERY_FRAME)), seconds(sft(source, BUDGET.fps))))
    return [
        Row(
            f"reading a normalised clip | its source, by {name}'s loader",
            mean(normalised for normalised, _ in pairs),
            mean(source for _, source in pairs),
            0.1,
        )
        for name, pairs in times.items()
    ]
