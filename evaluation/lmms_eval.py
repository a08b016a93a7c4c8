"""Benchmarks whose official way is a library: lmms-eval, in an environment of its own, against our served model.

python -m evaluation.lmms_eval tasks=mvbench,videomme model=MODEL [endpoint=http://127.0.0.1:8000/v1] [key=value ...]

  tasks      lmms-eval's names, with commas between them
  model      the name under which `python -m launch.serve` serves it
  endpoint   where it serves
  schema     of its responses (ota): what is kept is the answer
  port       of the extractor on the loopback address (8100)
  limit      samples per task; all by default
  serve      true: also run the extractor until interrupted; otherwise only the commands are printed

lmms-eval searches whole responses for letters and words, and does not know our tags. So a small extractor stands
between: it passes requests on and gives back the answer alone. A malformed response comes back as "[]", in which no
task finds an answer, and is counted. lmms-eval cannot live in our environment (latex2sympy2 and hydra-core want
different antlr4 versions); nothing of it is imported here.
"""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rich.console import Console

from evaluation.answers import PLAIN, parse_answer
from evaluation.cli import UsageError, key_values
from rewards.response import SCHEMAS

MALFORMED = "[]"
VERSION = "0.7.3"
TOKENS = 4096  # tasks allow 16 and the like: a reasoning answer would be cut before it is given
LONGEST_REQUEST = 512 << 20  # bytes; frames travel inside
SECONDS = 600.0  # for one answer


def command(tasks: str, model: str, port: int, limit: str | None = None) -> list[str]:
    """lmms-eval's command line."""
    arguments = f"model_version={model},base_url=http://127.0.0.1:{port}/v1,api_key=none"
    line = ["python", "-m", "lmms_eval", "--model", "async_openai", "--model_args", arguments, "--tasks", tasks]
    line += ["--gen_kwargs", f"max_new_tokens={TOKENS},temperature=0", "--batch_size", "1", "--log_samples"]
    return line + ["--output_path", "lmms_eval"] + (["--limit", limit] if limit else [])


def extracted(completion: Mapping[str, Any], schema: str) -> tuple[dict[str, Any], int]:
    """A chat completion with each response replaced by its answer, and how many were malformed."""
    choices, malformed = [], 0
    for choice in completion.get("choices", []):
        message = choice.get("message") or {}
        parsed = parse_answer(message.get("content") or "", schema)
        malformed += not parsed.ok
        choices.append({**choice, "message": {**message, "content": parsed.answer if parsed.ok else MALFORMED}})
    return {**completion, "choices": choices}, malformed


def extractor(endpoint: str, schema: str, port: int) -> ThreadingHTTPServer:
    """A server on the loopback address that passes requests to `endpoint` and gives back answers alone.

    Its attribute `counts` has the number of responses and of malformed ones.
    """
    counts: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self, body: bytes | None) -> None:
            # The path is lmms-eval's; the host is ours alone.
            url = endpoint.rstrip("/") + self.path.removeprefix("/v1")
            request = Request(url, data=body, headers={"Content-Type": "application/json"})
            try:
                with urlopen(request, timeout=SECONDS) as response:
                    status, content = response.status, response.read()
            except HTTPError as error:
                status, content = error.code, error.read()
            except URLError as error:
                status, content = 502, json.dumps({"error": {"message": f"{endpoint}: {error.reason}"}}).encode()
            if status == 200 and self.path.endswith("/chat/completions"):
                completion, malformed = extracted(json.loads(content), schema)
                counts.update(responses=len(completion["choices"]), malformed=malformed)
                content = json.dumps(completion).encode()
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


KEYS = ("tasks", "model", "endpoint", "schema", "port", "limit", "serve")


def main(arguments: Sequence[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(__doc__)
        return 0
    console = Console(soft_wrap=True, highlight=False, markup=False)
    try:
        _, options = key_values(arguments, KEYS)
        if not {"tasks", "model"} <= options.keys():
            raise UsageError("tasks=... and model=... are needed")
        schema, port = options.get("schema", "ota"), int(options.get("port", 8100))
        if schema not in (PLAIN, *SCHEMAS):
            raise UsageError(f"schema={schema}: choose one of {', '.join((PLAIN, *SCHEMAS))}")
        console.print("# once, in an environment of its own:")
        console.print(f"python -m venv lmms && lmms/bin/pip install lmms-eval=={VERSION} openai")
        console.print("# then, with this extractor running (serve=true):")
        line = command(options["tasks"], options["model"], port, options.get("limit"))
        console.print("OPENAI_API_KEY=none lmms/bin/" + shlex.join(line))
        if options.get("serve") == "true":
            with extractor(options.get("endpoint", "http://127.0.0.1:8000/v1"), schema, port) as server:
                console.print(f"# extractor on http://127.0.0.1:{server.server_address[1]}/v1; Ctrl-C ends it")
                try:
                    server.serve_forever()
                except KeyboardInterrupt:
                    console.print(f"# {server.counts['malformed']} of {server.counts['responses']} responses malformed")
    except (UsageError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
