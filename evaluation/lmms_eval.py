"""Benchmarks whose official way is a library: lmms-eval, in an environment of its own, against our served model.

python -m evaluation.lmms_eval tasks=mvbench,videomme model=MODEL [run=RUN] [endpoint=URL] [key=value ...]

  tasks      lmms-eval's names, with commas between them
  model      the name under which `python -m launch.serve --media FOLDER` serves it; lmms-eval names clips by their
             paths, so FOLDER must be where it keeps them (~/.cache/huggingface, or HF_HOME)
  run        the model's run folder: system prompt, instruction and schema of its recipe. Without it questions go as
             lmms-eval writes them
  endpoint   where it is served (http://127.0.0.1:8000/v1)
  schema     of its responses (the run's, or ota): what is kept is the answer
  port       of the extractor on the loopback address (8100)
  limit      samples per task; all by default
  serve      true: also run the extractor until interrupted; otherwise only the commands are printed

lmms-eval searches whole responses for letters and words, and does not know our tags. So a small extractor stands
between: it passes requests on and gives back the answer alone. A malformed response comes back as "[]", in which no
task finds an answer, and so does a request that fails at the server; both are counted, and a result with failed
requests is none. lmms-eval cannot live in our environment (latex2sympy2 and hydra-core want different antlr4
versions); nothing of it is imported here.
"""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console

from evaluation.answers import PLAIN, parse_answer, run_schema, schema_of
from evaluation.cli import UsageError, key_values, truth, whole_number
from evaluation.runs import recipe_of
from rewards.response import SCHEMAS

MALFORMED = "[]"
VERSION = "0.7.3"
SECONDS = 600  # for one answer; lmms-eval's own limit is 10
LONGEST_REQUEST = 512 << 20  # bytes
# What lmms-eval asks for that is not its to say: the clip's frames are the server's media budget, and an answer behind
# a reasoning does not end after the 16 tokens and the like of its tasks.
NOT_ITS_OWN = ("media_io_kwargs", "max_tokens", "max_completion_tokens")


def command(tasks: str, model: str, port: int, limit: str | None = None) -> list[str]:
    """lmms-eval's command line. Its other backend for servers, async_openai, sends frames as separate images."""
    arguments = f"model_version={model},base_url=http://127.0.0.1:{port}/v1,api_key=none"
    arguments += f",pass_video_url=True,timeout={SECONDS}"
    line = ["python", "-m", "lmms_eval", "--model", "openai", "--model_args", arguments, "--tasks", tasks]
    line += ["--gen_kwargs", "temperature=0", "--batch_size", "1", "--log_samples"]
    return line + ["--output_path", "lmms_eval"] + (["--limit", limit] if limit else [])


def asked(request: Mapping[str, Any], system: str = "", instruction: str = "") -> dict[str, Any]:
    """A chat request as our model knows it: its system prompt, its instruction behind the question, its budgets."""
    turns = deepcopy(request.get("messages", []))
    if instruction and turns:
        question = next(part for part in reversed(turns[-1]["content"]) if part["type"] == "text")
        question["text"] += f"\n{instruction}"
    if system and not any(turn["role"] == "system" for turn in turns):
        turns.insert(0, {"role": "system", "content": system})
    return {key: value for key, value in request.items() if key not in NOT_ITS_OWN} | {"messages": turns}


def extracted(completion: Mapping[str, Any], schema: str) -> tuple[dict[str, Any], int]:
    """A chat completion with each response replaced by its answer, and how many were malformed."""
    choices, malformed = [], 0
    for choice in completion.get("choices", []):
        message = choice.get("message") or {}
        parsed = parse_answer(message.get("content") or "", schema)
        malformed += not parsed.ok
        choices.append({**choice, "message": {**message, "content": parsed.answer if parsed.ok else MALFORMED}})
    return {**completion, "choices": choices}, malformed


def extractor(endpoint: str, schema: str, port: int, system: str = "", instruction: str = "") -> ThreadingHTTPServer:
    """A server on the loopback address that passes requests to `endpoint` and gives back answers alone.

    Its attribute `counts` has the number of responses, of malformed ones and of failed requests.
    """
    counts: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self, body: bytes | None) -> None:
            # The path is lmms-eval's; the host is ours alone.
            url = endpoint.rstrip("/") + self.path.removeprefix("/v1")
            chat = body is not None and self.path.endswith("/chat/completions")
            if chat:
                body = json.dumps(asked(json.loads(body), system, instruction)).encode()
            request = Request(url, data=body, headers={"Content-Type": "application/json"})
            try:
                with urlopen(request, timeout=SECONDS) as response:
                    status, content = response.status, response.read()
            except HTTPError as error:
                status, content = error.code, error.read()
            except URLError as error:
                status, content = 502, json.dumps({"error": {"message": f"{endpoint}: {error.reason}"}}).encode()
            if chat and status == 200:
                completion, malformed = extracted(json.loads(content), schema)
                counts.update(responses=len(completion["choices"]), malformed=malformed)
                content = json.dumps(completion).encode()
            elif chat:
                # lmms-eval would score the text of the error as an answer.
                counts.update(failed=1)
                Console(stderr=True).print(content.decode(errors="replace"), style="red", markup=False, soft_wrap=True)
                message = {"role": "assistant", "content": MALFORMED}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                completion = {
                    "id": "failed",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "",
                    "choices": [choice],
                }
                status, content = 200, json.dumps(completion).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._pass_on(None)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            if length > LONGEST_REQUEST:
                self.send_error(413)
                return
            self._pass_on(self.rfile.read(length))

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.counts = counts
    return server


KEYS = ("tasks", "model", "run", "endpoint", "schema", "port", "limit", "serve")


def main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(__doc__)
        return 0
    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        _, options = key_values(arguments, KEYS)
        if not {"tasks", "model"} <= options.keys():
            raise UsageError("tasks=... and model=... are needed")
        recipe = recipe_of(Path(options["run"])) if "run" in options else {}
        data = recipe.get("data") or {}
        schema = options.get("schema", schema_of(run_schema(recipe.get("reward") or {})))
        port = whole_number(options, "port", 8100)
        if schema not in (PLAIN, *SCHEMAS):
            raise UsageError(f"schema={schema}: choose one of {', '.join((PLAIN, *SCHEMAS))}")
        console.print("# once, in an environment of its own:")
        console.print(f"python -m venv lmms && lmms/bin/pip install lmms-eval=={VERSION} openai")
        console.print("# then, with this extractor running (serve=true):")
        line = command(options["tasks"], options["model"], port, options.get("limit"))
        console.print("OPENAI_API_KEY=none lmms/bin/" + shlex.join(line))
        if truth(options, "serve"):
            endpoint = options.get("endpoint", "http://127.0.0.1:8000/v1")
            with extractor(endpoint, schema, port, data.get("system", ""), data.get("instruction", "")) as server:
                console.print(f"# extractor on http://127.0.0.1:{server.server_address[1]}/v1; Ctrl-C ends it")
                try:
                    server.serve_forever()
                except KeyboardInterrupt:
                    counts = server.counts
                    told = f"# {counts['malformed']} of {counts['responses']} responses malformed"
                    console.print(f"{told}, {counts['failed']} requests failed")
    except (UsageError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
