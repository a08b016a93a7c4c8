"""Start Python processes by forking one that has imported the engines already.

verl and vLLM take about ten processes for one run, and each spends 10 to 20 s of CPU on imports: minutes on two cores.
Here one process (the zygote) imports once, and whoever would start `python ...` gets a fork of it instead, on Linux and
on the embedded default only. Ray workers reach it through Ray's own `py_executable`, vLLM's engine core through
`multiprocessing.set_executable`. The forks share the imported memory.

`start` imports, forks, and returns in the fork; the first process goes on as the zygote. The executable that `start`
gives behaves like `python`: it runs this very file as a script, which therefore needs the standard library only.
"""

import array
import json
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

_SOCKET_ENV = "CAMREASONER_ZYGOTE"
_WITHOUT_RAY = ("torch", "torch._dynamo", "tensordict", "transformers", "sklearn.metrics", "pandas")
_PRELOADED = (
    "ray._private.workers.default_worker",
    "transfer_queue",
    "verl.trainer.main_ppo",
    "verl.trainer.ppo.v1",
    "verl.workers.engine_workers",
    "verl.workers.engine.fsdp.transformer_impl",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
    "verl.experimental.reward_loop",
    "launch.verl_plugin.rollout",
    "launch.verl_plugin.reward",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.qwen2_5_vl",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "qwen_vl_utils",
)


# ------------------------------------------------------------------ server


def start(folder: str, raylet_pid: Callable[[], int]) -> str:
    """Import the engines and fork; give, in the fork, the executable that stands for `python`.

    The first process serves until the fork ends, and ends with its exit code.

    Args:
        folder: for the socket and the executable.
        raylet_pid: waits for the Ray node that the forks will work for, and gives the process id of its raylet.
    """
    import gc
    import importlib

    for name in _WITHOUT_RAY:
        importlib.import_module(name)
    # Ray reads a worker's environment once, when it is imported (2.60.0, core_worker.cc:243 and :1070). The node
    # serves this run alone: its first job is the process that started it, its second is ours.
    worker_env = {"RAY_RAYLET_PID": str(raylet_pid()), "RAY_JOB_ID": "02000000"}
    os.environ |= worker_env
    for name in _PRELOADED:
        importlib.import_module(name)
    for name in worker_env:
        del os.environ[name]
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the shared pages
    path = os.path.join(folder, "zygote")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    pid = os.fork()
    if pid == 0:
        from launch.process import die_with_parent

        server.close()
        die_with_parent()
        return _write_client(folder, path)
    os._exit(_serve(server, pid))


def _serve(server: socket.socket, first: int) -> int:
    """Fork a process for each client until the process `first` ends; give its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGTERM))
    clients: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([server], [], [], 0.05)
        if ready:
            client, _ = server.accept()
            request, fds = _receive(client)
            pid = os.fork()
            if pid == 0:
                # vLLM starts its engine core through multiprocessing.
                multiprocessing.set_executable(_executable(os.path.dirname(server.getsockname())))
                server.close()
                for other in clients.values():
                    other.close()
                _become(request, fds, client)
            for fd in fds:
                os.close(fd)
            clients[pid] = client
        for pid, code in _ended():
            if pid == first:
                return code if code >= 0 else 128 - code
            if pid not in clients:  # the Ray node, which all the others live by: end, and they end with us
                sys.stderr.write(f"RuntimeError: the Ray node ended (exit code {code})\n")
                return 1
            client = clients.pop(pid)
            try:
                client.sendall(json.dumps({"status": code}).encode() + b"\n")
            except OSError:  # the client is gone; nobody waits for the status
                pass
            client.close()


def _ended() -> Iterator[tuple[int, int]]:
    """Process ids and exit codes of the forks that have ended since."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _become(request: dict, fds: list[int], client: socket.socket) -> None:
    """In the fork: take over the client's descriptors, environment and folder, and run what it was asked to run."""
    import runpy
    import traceback

    from launch.process import die_with_parent

    die_with_parent()
    client.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\n")
    keep = max([*request["fds"], *fds, client.fileno()]) + 1
    os.dup2(client.fileno(), keep)
    spare = [os.dup(fd) for fd in fds]  # first out of the way of one another
    for number in request["fds"]:
        os.dup2(spare[request["fds"].index(number)], number)
    for fd in {*spare, *fds, client.fileno()} - set(request["fds"]):
        os.close(fd)
    threading.Thread(target=_end_with_client, args=(keep,), daemon=True).start()

    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    os.setpgid(0, 0)  # raylet ends a worker by its process group
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    arguments = request["argv"]
    while arguments[0].startswith("-") and arguments[0] != "-c":  # interpreter flags: this one has its own
        arguments = arguments[1:]
    code = 1
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            main = type(sys)("__main__")
            sys.modules["__main__"] = main
            exec(compile(arguments[1], "<string>", "exec"), main.__dict__)  # noqa: S102 the caller's own -c
        else:
            sys.argv = arguments
            sys.path.insert(0, os.path.dirname(arguments[0]))
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 what the interpreter itself does at its top level
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_with_client(fd: int) -> None:
    """A killed client cannot pass its signal on; its closed socket does."""
    if not os.read(fd, 1):
        os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------ client


def ask(path: str, argv: list[str]) -> int:
    """Have the zygote run `python argv` with this process's descriptors, environment and folder; give its exit code."""
    fds = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    fds = [fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")]  # the listing's own is closed by now
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    message = json.dumps({"argv": argv, "env": dict(os.environ), "cwd": os.getcwd(), "fds": fds}).encode() + b"\n"
    connection.sendmsg([message[:1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    connection.sendall(message[1:])
    for fd in fds:
        if fd > 2:
            os.close(fd)  # only the fork may hold pipes open
    answers = connection.makefile()
    pid = json.loads(answers.readline())["pid"]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    last = answers.readline()
    return json.loads(last)["status"] if last else 1


def _receive(client: socket.socket) -> tuple[dict, list[int]]:
    first, ancillary, _, _ = client.recvmsg(1, socket.CMSG_SPACE(256 * 4))
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    text = first
    while not text.endswith(b"\n"):
        text += client.recv(1 << 16)
    return json.loads(text), fds.tolist()


def _executable(folder: str) -> str:
    return os.path.join(folder, "python")


def _write_client(folder: str, socket_path: str) -> str:
    """The executable that stands for `python`: it runs this very file, isolated and bare."""
    path = _executable(folder)
    with open(path, "w") as script:
        script.write(f'#!/bin/sh\n{_SOCKET_ENV}={socket_path} exec {sys.executable} -IS {__file__} "$@"\n')
    os.chmod(path, 0o700)
    return path


if __name__ == "__main__":
    code = ask(os.environ.pop(_SOCKET_ENV), sys.argv[1:])
    if code < 0:  # ended by a signal: end alike
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
