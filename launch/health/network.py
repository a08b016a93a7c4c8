"""Names and ports of this machine, and the judge."""

import os
import socket

import psutil

from launch.errors import LaunchError
from launch.health.finding import Finding, State
from launch.planning.judge import serve_command
from launch.recipe import Recipe
from rewards.judges.http import is_loopback

INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
JUDGE_SECONDS = 10.0
NO_LIST = (404, 405, 501)  # what a server without a list of models answers


def ports(recipe: Recipe) -> Finding:
    """Ports on loopback, an address for this machine's name, and the interfaces that the shell names."""
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError as error:
        return Finding("ports", "wrong", f"127.0.0.1: {error.strerror}", "ip link set lo up; the container's network")
    known = psutil.net_if_addrs()
    for variable in INTERFACES:
        names = [name.lstrip("^=") for name in os.environ.get(variable, "").split(",") if name]
        if missing := [name for name in names if not any(each.startswith(name) for each in known)]:
            return Finding(
                "ports",
                "wrong",
                f"{variable} names {missing[0]}, this machine has {', '.join(known)}",
                f"{variable}=<one of these>, or unset it",
            )
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return Finding(
            "ports",
            "wrong",
            f"the name {host} has no address, which gloo asks for",
            f"a line `127.0.1.1 {host}` in /etc/hosts, or GLOO_SOCKET_IFNAME=lo",
        )
    if recipe.cluster.nodes > 1 and recipe.cluster.device == "cuda" and address.startswith("127."):
        return Finding(
            "ports",
            "doubtful",
            f"{host} is {address} to itself",
            "ray start --node-ip-address=<its address>; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME=<its interface>",
        )
    return Finding("ports", "ok", f"{host} is {address}")


def judge(recipe: Recipe) -> Finding:
    """The judge's servers answer, and know its model. Asks for their list of models, nothing else."""
    if recipe.judge.name != "endpoint":
        return Finding("judge", "not needed", f"judge={recipe.judge.name}")
    settings = recipe.judge.settings
    key = settings.get("api_key_env")
    if key and not os.environ.get(key):
        return Finding("judge", "wrong", f"judge.api_key_env={key} is not set", f"export {key}=…, on every node")
    import openai

    urls = settings["url"] if isinstance(settings["url"], list) else [settings["url"]]
    for url in urls:
        remedy = serve_command(recipe) if is_loopback(url) and recipe.cluster.judge_gpus else "start it: docs/judge.md"
        secret = os.environ[key] if key else "none"
        http = openai.DefaultHttpxClient(
            trust_env=not is_loopback(url), follow_redirects=False
        )  # as verdicts are asked
        client = openai.OpenAI(base_url=url, api_key=secret, timeout=JUDGE_SECONDS, max_retries=0, http_client=http)
        try:
            names = [model.id for model in client.models.list()]
        except openai.OpenAIError as error:
            if getattr(error, "status_code", None) in NO_LIST:
                return Finding("judge", "doubtful", f"{url} answers, but does not list its models", "docs/judge.md")
            return Finding("judge", "wrong", f"{url}: {error}", remedy)
        if settings["model"] not in names:
            state: State = "doubtful" if key else "wrong"  # hosted models have aliases, which are not listed
            return Finding("judge", state, f"{url} serves {', '.join(names)}", f"judge.model={(names or ['…'])[0]}")
    return Finding("judge", "ok", f"{settings['model']} at {', '.join(urls)}")


def require_judge(recipe: Recipe) -> None:
    """Ask the judge once, before engines start; asks nobody where the recipe has judge=rules.

    Raises:
        LaunchError: a server that does not answer within `JUDGE_SECONDS`, or lacks the model; naming its address.
    """
    _, state, seen, remedy = judge(recipe)
    if state == "wrong":
        raise LaunchError(f"judge=endpoint: {seen}\n  {remedy}\n  or judge=rules, which asks no model")
