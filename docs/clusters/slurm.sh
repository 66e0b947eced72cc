#!/usr/bin/env bash
# A sweep under Slurm: `sbatch docs/clusters/slurm.sh name=mine ...`; submitted again, it goes on where it stopped.
# Lines marked CHANGE name things of your site.
#SBATCH --job-name=sweep
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=sweep-%j.log
set -euo pipefail

cd /shared                        # CHANGE: a folder that all nodes see; NFS is mounted with
                                  # lookupcache=none,acdirmin=0,acdirmax=0 (docs/clusters.md)
. "$HOME/venv/bin/activate"       # CHANGE: a virtual environment that all nodes see, with this project in it:
                                  # pip install -c docs/clusters/constraints.txt .

export RAY_AUTH_MODE=token        # the token lies in the home folder, which all nodes see
[ -f "$HOME/.ray/auth_token" ] || ray get-auth-token --generate >/dev/null
export RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID    # apart from another user's Ray on the same node
port=$((10000 + SLURM_JOB_ID % 20000))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d ' ' -f 1)

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --node-ip-address="$address" --port="$port" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$SLURM_GPUS_PER_NODE" --include-dashboard=false --temp-dir="$RAY_TMPDIR" --block &
for _ in $(seq 60); do ray health-check --address "$address:$port" 2>/dev/null && break || sleep 2; done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" ray start \
        --address="$address:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$SLURM_GPUS_PER_NODE" --block &
fi

# Slurm's warning before the time is up ends the driver; every finished epoch is on disk.
RAY_ADDRESS=$address:$port python -m sweep cluster.address=auto "$@" &
sweep=$!
trap 'kill -TERM $sweep' TERM
code=0
wait "$sweep" || code=$?
[ "$code" -le 128 ] || wait "$sweep" || code=$?    # the trap ended the first wait
exit "$code"                                       # Slurm ends the Rays with this script
