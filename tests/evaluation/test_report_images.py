"""A report of questions about images: they stand side by side where a clip's frames would."""

import json
from base64 import b64decode
from io import BytesIO
from pathlib import Path

from PIL import Image

from data_tools.run_folder import RunFolder
from data_tools.sample import read_samples
from evaluation.report.page import write_report


def test_images_stand_side_by_side(run: Path, evaluate):
    for name, size in (("a.png", (60, 40)), ("b.png", (40, 60))):
        Image.new("RGB", size, "red").save(run / "data/clips" / name)
    shows = {"video": None, "images": ["clips/a.png", "clips/b.png"]}
    samples = [sample.model_copy(update=shows) for sample in read_samples(run / "data/test.jsonl")]
    for model in ("base", "sft", "rl"):
        lines = (run / f"eval/test/{model}/predictions.jsonl").read_text().splitlines()
        evaluate(run, model, [json.loads(line) for line in lines], samples)
    write_report(RunFolder(run))
    page = (run / "report/index.html").read_text()
    (clip,) = json.loads(page.split('id="test-predictions">')[1].split("</script>")[0])["clips"].values()
    with Image.open(BytesIO(b64decode(clip["strip"].split(",")[1]))) as sheet:
        assert sheet.size == (60 + 3 + 40, 60) and clip["video"] is None
    assert "<video" not in page and not list((run / "report/clips").glob("*"))
