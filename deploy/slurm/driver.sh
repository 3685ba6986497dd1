#!/bin/bash
# The driver as a job of its own: sbatch deploy/slurm/driver.sh run.yaml
# Slurm sends SIGTERM two minutes before the walltime: the run then stops cleanly, with nothing lost
# but the units in flight, and the same command resumes. Requeued, it waits until the lease of the
# driver before it, on a node that is gone, counts as abandoned.
#SBATCH --job-name=psfscale
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
export OMP_NUM_THREADS=1
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    set -- "$@" --wait-lease 600
fi
case " $* " in
    *" --cluster"[\ =]*) exec psfscale run "$@" ;;
    *) exec psfscale run "$@" --cluster slurm ;;
esac
