"""Slurm's script, run by bash with commands in Slurm's and Ray's place that write down how they were called."""

import os
import re
import subprocess
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[1] / "docs/clusters/slurm.sh"
COMMANDS = {
    "scontrol": "printf 'node1\\nnode2\\nnode3\\n'",
    "srun": 'while [[ $1 == --* ]]; do shift; done; "$@"',
    "hostname": "echo 10.0.0.1 10.0.0.2",
    "ray": """case $1 in
        get-auth-token) mkdir -p "$HOME/.ray"; echo secret > "$HOME/.ray/auth_token" ;;
        health-check) until grep -q " ray start --head" "$HOME/calls"; do /bin/sleep 0.1; done ;;
    esac""",
    "python": """[[ $SLURM_JOB_NUM_NODES = 1 ]] ||
        until grep -q " ray start --address" "$HOME/calls"; do /bin/sleep 0.1; done
    exit $SWEEP_CODE""",
    "sleep": "",
}


def run(folder: Path, code: int, nodes: int = 3) -> tuple[int, list[str]]:
    """The job's exit code and its calls in order, each with Ray's variables before it."""
    (folder / "venv/bin").mkdir(parents=True)
    (folder / "venv/bin/activate").write_text(f'PATH="{folder}/bin:$PATH"\n')
    (folder / "bin").mkdir()
    for name, body in COMMANDS.items():
        note = f'echo "$RAY_AUTH_MODE $RAY_ADDRESS {name} $*" >> "{folder}/calls"'
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{note}\n{body}\n")
        (folder / "bin" / name).chmod(0o755)
    script = SLURM.read_text().replace("cd /shared ", f'cd "{folder}" ')
    job = {"JOB_ID": "20123", "JOB_NODELIST": "node[1-3]", "JOB_NUM_NODES": str(nodes)}
    job |= {"CPUS_PER_TASK": "32", "GPUS_PER_NODE": "4"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "SWEEP_CODE": str(code), "RAY_ADDRESS": ""}
    environment |= {f"SLURM_{name}": value for name, value in job.items()}
    command = ["bash", "-c", script + "\n", "slurm.sh", "name=mine", "a b=c"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert not done.stderr, done.stderr
    return done.returncode, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("code", [0, 3, 137])
def test_the_head_starts_before_the_workers_and_the_sweeps_exit_code_is_the_jobs(tmp_path: Path, code: int) -> None:
    returned, calls = run(tmp_path, code)
    assert returned == code
    (head,) = (number for number, call in enumerate(calls) if " srun " in call and "ray start --head" in call)
    (workers,) = (number for number, call in enumerate(calls) if " srun " in call and "ray start --address" in call)
    (healthy,) = (number for number, call in enumerate(calls) if " ray health-check --address 10.0.0.1:10123" in call)
    assert head < workers and healthy < workers, "nobody joins before the head answers"
    assert "--nodelist=node1 " in calls[head] and "--node-ip-address=10.0.0.1 --port=10123 " in calls[head]
    assert "--nodes=2 --ntasks=2 --exclude=node1 " in calls[workers] and "--address=10.0.0.1:10123 " in calls[workers]
    assert all("--num-cpus=32 --num-gpus=4" in calls[number] for number in (head, workers))
    (sweep,) = (call for call in calls if " python " in call)
    assert sweep == "token 10.0.0.1:10123 python -m sweep cluster.address=auto name=mine a b=c"
    assert all(call.startswith("token ") for call in calls), "a Ray without the token would not be let in"
    assert (tmp_path / ".ray/auth_token").read_text() == "secret\n"


def test_one_node_has_no_workers(tmp_path: Path) -> None:
    _, calls = run(tmp_path, 0, nodes=1)
    assert not [call for call in calls if "ray start --address" in call]


# Options and the form of their values: https://slurm.schedmd.com/sbatch.html
SBATCH = {
    "job-name": r"\S+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"([\w-]+:)?\d+",
    "cpus-per-task": r"\d+",
    "time": r"(\d+-)?\d+(:[0-5]\d){0,2}|\d+-\d+",
    "signal": r"(R?B?:)?(\d+|[A-Z]+\d?)(@\d{1,5})?",
    "output": r"\S+",
}


def test_the_script_is_good_bash_with_known_directives_of_the_manuals_form() -> None:
    assert os.access(SLURM, os.X_OK)
    checked = subprocess.run(["bash", "-n", SLURM], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    lines = SLURM.read_text().splitlines()
    directives = dict(re.fullmatch(r"#SBATCH --([\w-]+)=(\S+)", line).groups() for line in lines if "#SBATCH" in line)  # type: ignore[union-attr]
    for option, value in directives.items():
        assert option in SBATCH and re.fullmatch(SBATCH[option], value), f"--{option}={value}"
    assert directives["signal"].startswith("B:"), "the trap is the batch script's"
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(number < first_command for number, line in enumerate(lines) if line.startswith("#SBATCH"))
