"""Eight questions about three clips, and predictions whose scores can be counted by hand."""

from data_tools.sample import Sample
from evaluation.predictions import Prediction
from rewards.motions import observation


def sample(id: str, clip: str, gold: str, motion: str, asked: str | None = None, **extras) -> Sample:
    """A Yes/No question when `asked` is given, else a choice of four whose right option is the second."""
    options = ["Yes", "No"] if asked else ["static", "pan left", "roll clockwise", "zoom in"]
    return Sample(
        id=id,
        video=f"clips/{clip}.mp4",
        question="?",
        options=options,
        answer="AB"[options.index(gold)],
        task="binary" if asked else "choice",
        source="test",
        split="test",
        extras={"motion": motion} | ({"asked": asked} if asked else {}) | extras,
    )


def says(id: str, answer: str, seen: str = "pan_left") -> Prediction:
    response = f"<observation>{observation(seen)}</observation><think>So.</think><answer>{answer}</answer>"
    return Prediction(id=id, response=response, finish_reason="stop")


SAMPLES = [
    sample("q1", "one", "Yes", "pan_left", "pan_left", confusable=False),
    sample("q2", "one", "No", "pan_left", "truck_left", confusable=True),
    sample("q3", "two", "Yes", "truck_left", "truck_left", confusable=False),
    sample("q4", "two", "No", "truck_left", "pan_left", confusable=True),
    sample("q5", "three", "No", "pan_left", "static", confusable=False),
    sample("q6", "three", "pan left", "pan_left"),
    sample("q7", "three", "pan left", "pan_left"),
    sample("q8", "three", "pan left", "pan_left"),
]
PREDICTIONS = {
    prediction.id: prediction
    for prediction in [
        says("q1", "A", "pan_left"),  # right, and the observation is true
        says("q2", "Yes", "truck_left"),  # wrong: took the pan for a truck
        Prediction(id="q3", response="<observation>The picture", finish_reason="length"),  # malformed
        says("q4", "no", "truck_left"),  # right, by the option's text
        says("q6", "Pan Left", "pan_left"),  # right; q5 is missing
        says("q7", "E", "pan_left"),  # no option, though the observation is true
        Prediction(id="q8", response="", finish_reason="error", error="server gone"),
    ]
}
