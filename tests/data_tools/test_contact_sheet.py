"""The page that shows what a model will see of the user's own data."""

import re

import numpy as np

from data_tools.contact_sheet import EACH, write_contact_sheet
from data_tools.prompt import PLAIN, Form
from data_tools.rendered.scene import write_clip
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample, write_samples

EVIL = "<script>alert(1)</script>"


def test_frames_prompt_and_answer_of_each_task_are_shown_and_no_text_is_trusted(tmp_path):
    run = RunFolder(tmp_path / "mine" / "main")
    (run.data / "clips").mkdir(parents=True)
    fields = {"source": "mine", "split": "sft", "chain": f"<answer>A</answer>{EVIL}"}
    samples = []
    for number in range(5):
        write_clip(run.data / f"clips/{number}.mp4", np.full((12, 28, 56, 3), 40 * number, np.uint8), fps=4.0)
        shown = fields | {"video": f"clips/{number}.mp4"}
        asked = {"question": EVIL, "task": "binary", "options": ["No", "Yes"], "answer": "A"}
        samples += [Sample(id=f"{number}-{twice}", **shown, **asked) for twice in range(2)]
    when = {"question": "When?", "task": "temporal_grounding", "spans": [[0.0, 1.5]]}
    samples.append(Sample(id="when", video="clips/0.mp4", **fields, **when))
    write_samples(run.samples("sft"), samples)
    prompt = PLAIN.model_copy(update={"instructions": {"ota": {"default": "Give {answer_form}."}}})
    page = write_contact_sheet(run, ["sft"], Form(prompt=prompt)).read_text()
    assert re.findall("<h3>(.+)</h3>", page) == [
        "binary: 0-0",
        "binary: 1-0",
        "binary: 2-0",
        "temporal grounding: when",
    ]
    assert EACH == 3 and page.count("data:image/jpeg") == 4 * 8 and "12 frames of 56 x 28, of which 8 are shown" in page
    assert "Give the letter of the right option." in page and "right: [[0.0, 1.5]]" in page and "right: No" in page
    assert "<h1>What a model sees in mine / main</h1>" in page
    assert "<script" not in page and "&lt;script&gt;" in page and "<video>" not in page
