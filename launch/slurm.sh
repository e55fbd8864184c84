#!/bin/bash
# A Slurm job over GPU nodes, one process a GPU; it is requeued until the run is finished.
#
#   sbatch launch/slurm.sh sft/llama2_7b_h100 /shared/runs/llama2-7b data.batch_size=64
#
# Arguments: a config, the output folder (on a file system that every node sees), overrides. Not run on a cluster yet.
#SBATCH --job-name=jaxmoe
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# the tasks get SIGTERM three minutes before the time limit: they save a checkpoint and end
#SBATCH --signal=TERM@180
set -euo pipefail

config=${1:?usage: sbatch launch/slurm.sh CONFIG OUTPUT [KEY=VALUE...]}
output=${2:?usage: sbatch launch/slurm.sh CONFIG OUTPUT [KEY=VALUE...]}
shift 2

# JAX reads the coordinator, the number of processes and their ids from Slurm
srun --kill-on-bad-exit=1 jaxmoe sft --config "$config" output="$output" mesh.data=1 mesh.fsdp=-1 "$@"

# a stopped run ends without its export: the same job goes on later
if [ ! -d "$output/export" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
