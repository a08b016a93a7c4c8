"""The run folder: every path in it, spelled here and nowhere else.

runs/<experiment>/<name>/
    recipe.yaml  manifest.json  shared.json     what was asked for, with which code; the run it shares stages with
    lock                                        held by the process that works in the folder
    stages/<stage>.json                         done: settings, cost, what it was built on
    logs/<stage>.log  <stage>.ray/              of a stage that failed: the logs of its Ray node too
    data/        {sft,rl,val,test}.jsonl  quarantine.jsonl  clips/  llamafactory/  verl/  eval/
    model/       the tiny model
    sft/         llamafactory.yaml  trainer_log.jsonl  checkpoint-*/  quarantine.jsonl
                 merged/checkpoint-*/   whole models, where the checkpoints are adapters
    rl/          verl.yaml  metrics.jsonl  tensorboard/  rollouts/<step>.jsonl  checkpoints/  quarantine.jsonl
                 held_out.jsonl  held_out/<step>.jsonl    scores of, and answers to, the val split
                 best/global_step_<step>/    the best checkpoint by them
    difficulty/  <key>.jsonl  pass_rates.jsonl  rl.jsonl  quarantine.jsonl  summary.json  index.html
    merged/      the model after RL
    sets/        <set>/{samples.jsonl,quarantine.jsonl,set.json,clips/}    evaluation sets but the test split
    eval/        <set>/{samples.jsonl,set.json}  <set>/<model>/{predictions.jsonl,scores.json}
                 <set>/{controls,observed}/
    report/      index.html  summary.json  tables/  clips/
    watch/       index.sqlite  clips/     of the viewer; may be deleted at any time
"""

from pathlib import Path

SPLITS = ("sft", "rl", "val", "test")
SCORES = "scores.json"
CALIBRATION = "calibration.yaml"  # beside the runs: what `make calibrate` measured on this machine
OWN = "test"  # the evaluation set that is the run's own test split


class RunFolder:
    """Paths of the run in `root`; nothing is created or read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe = root / "recipe.yaml"
        self.manifest = root / "manifest.json"
        self.lock = root / "lock"
        self.shared = root / "shared.json"  # names the run whose stages are linked here
        self.published = root / "published"  # what a rehearsal is fed, as if from its publisher or the user

        self.data = root / "data"  # also the media root: the clips of data/*.jsonl are relative to it
        self.quarantine = self.data / "quarantine.jsonl"
        self.clips = self.data / "clips"
        self.contact_page = self.data / "contact_sheet.html"  # samples of the user's own data, as a model sees them
        self.contact_sheet = self.data / "contact_sheet.png"  # one clip per motion of the rendered data
        self.llamafactory_data = self.data / "llamafactory"

        self.model = root / "model"
        self.sft = root / "sft"
        self.sft_config = self.sft / "llamafactory.yaml"
        self.sft_data = self.sft / "llamafactory"  # the chains that fit, where some are too long
        self.sft_quarantine = self.sft / "quarantine.jsonl"
        self.sft_log = self.sft / "trainer_log.jsonl"
        self.sft_state = self.sft / "trainer_state.json"  # the Trainer's, with what it logged at each step
        self.rl = root / "rl"
        self.rl_config = self.rl / "verl.yaml"
        self.rl_prompts = self.rl / "rl.parquet"  # the prompts that fit, where some are too long
        self.rl_quarantine = self.rl / "quarantine.jsonl"
        self.rl_metrics = self.rl / "metrics.jsonl"
        self.rollouts = self.rl / "rollouts"
        self.rl_checkpoints = self.rl / "checkpoints"
        self.held_out = self.rl / "held_out.jsonl"
        self.held_out_answers = self.rl / "held_out"
        self.rl_best = self.rl / "best"  # the best checkpoint by the val split, kept while others go
        self.difficulty = root / "difficulty"
        self.pass_rates = self.difficulty / "pass_rates.jsonl"
        self.difficulty_kept = self.difficulty / "rl.jsonl"  # the questions to train on, in order
        self.difficulty_quarantine = self.difficulty / "quarantine.jsonl"
        self.difficulty_summary = self.difficulty / "summary.json"
        self.difficulty_page = self.difficulty / "index.html"
        self.merged = root / "merged"

        self.sets = root / "sets"
        self.eval = root / "eval"
        self.report = root / "report"
        self.watch = root / "watch"
        self.watch_index = self.watch / "index.sqlite"
        self.watch_clips = self.watch / "clips"

    def record(self, stage: str) -> Path:
        """What a finished stage says of itself."""
        return self.root / "stages" / f"{stage}.json"

    def records(self) -> list[Path]:
        """Those of all finished stages."""
        return sorted(p for p in (self.root / "stages").glob("*.json") if not p.name.endswith(".started.json"))

    def started(self, stage: str) -> Path:
        """The same of a stage that has begun and not finished."""
        return self.root / "stages" / f"{stage}.started.json"

    def log(self, stage: str) -> Path:
        return self.root / "logs" / f"{stage}.log"

    def samples(self, split: str) -> Path:
        return self.data / f"{split}.jsonl"

    def rejected(self, split: str) -> Path:
        """Records of a split's published files that are not valid samples."""
        return self.data / f"{split}.quarantine.jsonl"

    def quarantines(self) -> list[Path]:
        """All lists of records that stages left out, in the order of the stages."""
        found = sorted(self.data.glob("*quarantine.jsonl")) + [self.sft_quarantine, self.difficulty_quarantine]
        found += [self.rl_quarantine]
        return [path for path in (*found, *sorted(self.sets.glob("*/*quarantine.jsonl"))) if path.exists()]

    def verl_data(self, split: str) -> Path:
        return self.data / "verl" / f"{split}.parquet"

    def eval_data(self, split: str) -> Path:
        """Prompts and clips, for other evaluators."""
        return self.data / "eval" / f"{split}.jsonl"

    def sft_merged(self, checkpoint: str) -> Path:
        """The whole model of a checkpoint of adapters."""
        return self.sft / "merged" / checkpoint

    def rollout_files(self) -> list[Path]:
        """By step."""
        return _by_step(self.rollouts)

    def held_out_files(self) -> list[Path]:
        """By step."""
        return _by_step(self.held_out_answers)

    # ------------------------------------------------------------ evaluation

    def set(self, name: str) -> Path:
        """Questions of an evaluation set and their clips, as stage `sets` prepares them."""
        return self.sets / name

    def asked(self, name: str) -> Path:
        """The questions of a set that models were asked."""
        return self.eval / name / "samples.jsonl"

    def set_facts(self, name: str) -> Path:
        """How a set was asked: its models, benchmark, reward and media root."""
        return self.eval / name / "set.json"

    def predictions(self, name: str, model: str, control: str | None = None) -> Path:
        """Of a model for the questions of a set, or for those of a control."""
        return self.eval / name / model / f"{control or 'predictions'}.jsonl"

    def scores(self, name: str, model: str) -> Path:
        return self.eval / name / model / SCORES

    def controls(self, name: str) -> Path:
        return self.eval / name / "controls"

    def observed(self, name: str) -> Path:
        """A set's questions with models' observations in them, and the base model's answers."""
        return self.eval / name / "observed"


def _by_step(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"), key=lambda path: int(path.stem))
