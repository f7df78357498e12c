#!/usr/bin/env bash
# Requests a slice of TPU machines, waits for it, trains on it, and requests it again when it is taken away. Start it
# on a machine that keeps running: launch/tpu_queued_resources.sh
# All variables can be set in the environment. The machines are billed until the queued resource is deleted.
set -euo pipefail

NAME=${NAME:-epfv2-train}                           # of the queued resource and of its slice
PROJECT=${PROJECT:?the Google Cloud project}
ZONE=${ZONE:-us-west4-a}
ACCELERATOR=${ACCELERATOR:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
TIER=${TIER:---spot}                                # empty: on demand
SHARE=${SHARE:?the shared disk, as HOST:/PATH of NFS}
DIRECTORY=${DIRECTORY:-/shared/epfv2_jax}           # the checkout on it
MOUNT="sudo apt-get -qq install -y nfs-common && sudo mkdir -p /shared && sudo mount -t nfs $SHARE /shared"
SETUP=${SETUP:-mountpoint -q /shared || ($MOUNT)}
COMMAND=${COMMAND:-.venv/bin/python -m epfv2_jax.train --distributed --config configs/egobody3m_resnet18.py}

tpus() {
  gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"
}

state() {
  tpus queued-resources describe "$NAME" --format='value(state.state)' 2>/dev/null || echo ABSENT
}

wait_until_active() {
  while :; do
    case $(state) in
      ACTIVE) return ;;
      ABSENT)
        tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$ACCELERATOR" \
          --runtime-version="$RUNTIME" ${TIER:+"$TIER"}
        ;;
      SUSPENDED) tpus queued-resources delete "$NAME" --force --quiet ;;
      FAILED)
        echo "$NAME could not be provided: gcloud compute tpus queued-resources describe $NAME says why" >&2
        exit 1
        ;;
      *) sleep 30 ;;
    esac
  done
}

while :; do
  wait_until_active
  code=0
  tpus tpu-vm ssh "$NAME" --worker=all --command="($SETUP) && cd $DIRECTORY && exec $COMMAND" || code=$?
  case $code in
    0) exit ;;
    75) ;; # told to stop, the state is saved
    *)
      # A slice that is taken away may give any error, and its state is updated later.
      sleep 60
      if [ "$(state)" = ACTIVE ]; then
        exit "$code"
      fi
      ;;
  esac
done
