"""Start Python processes by forking one that has already imported the engines. Only the demo without a GPU uses this.

Why: verl and vLLM start about ten processes for one run, and each spends 10 to 20 s of CPU time on imports: minutes on
two cores, most of a short run. Forks also share the imported memory. Python's own fork server
(multiprocessing) does not help: Ray starts its workers as `python ...` commands, not through multiprocessing.

How: `start` imports the engines and forks. The first process becomes the fork server; `start` returns in the fork.
Whoever then runs the executable that `start` returns, in place of `python`, gets a fork of the server that takes over
its descriptors, environment and folder. Ray workers get it through Ray's `py_executable`, vLLM's engine core through
`multiprocessing.set_executable`. The executable runs this very file as a script with the standard library only.
"""

import array
import json
import multiprocessing
import os
import select
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

_SOCKET_ENV = "CAMREASONER_FORK_SERVER"
_PRELOADED = (
    "torch._dynamo",
    "tensordict",
    "transformers",
    "sklearn.metrics",
    "pandas",
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
)


# ------------------------------------------------------------------ server


def start(folder: str, raylet: int, modules: tuple[str, ...]) -> str:
    """Import the engines and fork; return, in the fork, the executable to run in place of `python`.

    The first process serves until the fork ends, and exits with its code.

    Args:
        folder: for the socket and the executable.
        raylet: process id of the raylet that the forks will work for.
        modules: imported besides those that every run needs.
    """
    import gc
    import importlib

    # Ray reads a worker's environment once, when it is imported (2.60.0, core_worker.cc:243 and :1070). The node
    # serves this run only: its first job is the process that started it, its second is this run.
    worker_env = {"RAY_RAYLET_PID": str(raylet), "RAY_JOB_ID": "02000000"}
    os.environ |= worker_env
    for name in (*_PRELOADED, *modules):
        importlib.import_module(name)
    for name in worker_env:
        del os.environ[name]
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the shared pages
    path = os.path.join(folder, "fork_server")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    pid = os.fork()
    if pid == 0:
        from launch.engines.cleanup import die_with_parent

        server.close()
        die_with_parent()
        return _write_client(folder, path)
    os._exit(_serve(server, pid))


def _serve(server: socket.socket, first: int) -> int:
    """Fork a process for each client until the process `first` ends; return its exit code."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGTERM))
    ended, wake = _wake_at_end_of_child()
    clients: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([server, ended], [], [])
        if ended in ready:
            ended.recv(1 << 12)
        if server in ready:
            client, _ = server.accept()
            request, fds = _receive(client)
            pid = os.fork()
            if pid == 0:
                # vLLM starts its engine core through multiprocessing.
                multiprocessing.set_executable(_executable(os.path.dirname(server.getsockname())))
                signal.set_wakeup_fd(-1)
                for other in (server, ended, wake, *clients.values()):
                    other.close()
                _become(request, fds, client)
            for fd in fds:
                os.close(fd)
            clients[pid] = client
        for pid, code in _ended():
            if pid == first:
                return code if code >= 0 else 128 - code
            if pid not in clients:  # the Ray node, which all others need: exit, and they exit too
                sys.stderr.write(f"RuntimeError: the Ray node ended (exit code {code})\n")
                return 1
            client = clients.pop(pid)
            try:
                client.sendall(json.dumps({"status": code}).encode() + b"\n")
            except OSError:  # the client is gone: nobody waits for the status
                pass
            client.close()


def _wake_at_end_of_child() -> tuple[socket.socket, socket.socket]:
    """A pair of sockets, of which the first can be read from once a child of this process has ended."""
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing is written to the socket
    wake.send(b"\0")  # for a child that has ended by now
    return ended, wake


def _ended() -> Iterator[tuple[int, int]]:
    """Process ids and exit codes of the forks that have ended since the last call."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _become(request: dict[str, Any], fds: list[int], client: socket.socket) -> None:
    """In the fork: take over the client's descriptors, environment and folder, and run what the client asked for."""
    import runpy
    import traceback

    from launch.engines.cleanup import die_with_parent

    die_with_parent()
    client.sendall(json.dumps({"pid": os.getpid()}).encode() + b"\n")
    keep = max([*request["fds"], *fds, client.fileno()]) + 1
    os.dup2(client.fileno(), keep)
    spare = [os.dup(fd) for fd in fds]  # copies first: the numbers may overlap
    for number in request["fds"]:
        os.dup2(spare[request["fds"].index(number)], number)
    for fd in {*spare, *fds, client.fileno()} - set(request["fds"]):
        os.close(fd)
    threading.Thread(target=_end_with_client, args=(keep,), daemon=True).start()

    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    os.setpgid(0, 0)  # raylet kills a worker by its process group
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    arguments = request["argv"]
    while arguments[0].startswith("-") and arguments[0] != "-c":  # interpreter flags, fixed by now
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
    """End with the client: a killed client cannot forward its signal, but its socket closes."""
    if not os.read(fd, 1):
        os.kill(os.getpid(), signal.SIGKILL)


# ------------------------------------------------------------------ client


def ask(path: str, argv: list[str]) -> int:
    """Have the fork server run `python argv` with the descriptors, environment and folder of this process.

    Returns:
        its exit code.
    """
    fds = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    fds = [fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")]  # without the listing's own, closed by now
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


def _receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
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
    """The executable to run in place of `python`: it runs this very file, isolated and without site-packages."""
    path = _executable(folder)
    with open(path, "w") as script:
        server, python, this = map(shlex.quote, (socket_path, sys.executable, __file__))
        script.write(f'#!/bin/sh\n{_SOCKET_ENV}={server} exec {python} -IS {this} "$@"\n')
    os.chmod(path, 0o700)
    return path


if __name__ == "__main__":
    code = ask(os.environ.pop(_SOCKET_ENV), sys.argv[1:])
    if code < 0:  # ended by a signal: end by the same one
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
