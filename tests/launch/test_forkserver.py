"""The fork server: its forks run what clients ask for, and it sleeps meanwhile."""

import subprocess
import sys

SERVE = """
import os, select, socket, sys, time
from launch.engines.verl import forkserver

path, looks, wait = sys.argv[1], [], select.select
select.select = lambda *watched: looks.append(1) or wait(*watched)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
first = os.fork()
if first == 0:
    codes = [forkserver.ask(path, ["-c", f"import sys; sys.exit({code})"]) for code in (3, 4)]
    time.sleep(1)
    os._exit(codes == [3, 4])
print(forkserver._serve(server, first), len(looks))
"""


def test_it_wakes_for_clients_and_for_ended_forks_alone(tmp_path):
    served = subprocess.run([sys.executable, "-c", SERVE, tmp_path / "socket"], capture_output=True, text=True)
    code, looks = map(int, served.stdout.split())
    assert code == 1, served.stderr  # that of the first process, whose clients got the codes of their forks
    assert looks <= 8  # two clients, three ends, and one look at the start: each wakes it twice at most
