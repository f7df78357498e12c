#!/usr/bin/env bash
# Prints an indexed Job in which each pod labels its share of a planned pass, alone on a machine with TPUs:
# launch/gke_label_pass.sh | kubectl apply -f -
# All variables can be set in the environment. Machines may come and go: published units are kept.
set -euo pipefail

NAME=${NAME:-epfv2-label}
IMAGE=${IMAGE:-python:3.12}
CLAIM=${CLAIM:-shared}                              # a ReadWriteMany volume claim, mounted at /shared
DIRECTORY=${DIRECTORY:-/shared/epfv2_jax}           # the checkout in it
ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice}
TOPOLOGY=${TOPOLOGY:-2x2}                           # one machine
CHIPS=${CHIPS:-4}                                   # of each machine
CHIP_BOUNDS=${CHIP_BOUNDS:-2,2,1}                   # how they are laid out
VISIBLE_CHIPS=${VISIBLE_CHIPS:-0,1,2,3}
COUNT=${COUNT:-32}                                  # shares of the pass
AT_ONCE=${AT_ONCE:-32}                              # pods at a time
DATA=${DATA:-data/unlabelled/records/train}
CHECKPOINT=${CHECKPOINT:-runs/teacher_dinov3_vitb16}
OUT=${OUT:-data/unlabelled/labels}
RUN=".venv/bin/python -m epfv2_jax.pseudo_label run --engine index --count $COUNT"
COMMAND=${COMMAND:-$RUN --data $DATA --checkpoint $CHECKPOINT --out $OUT}

cat <<YAML
apiVersion: batch/v1
kind: Job
metadata:
  name: $NAME
spec:
  completionMode: Indexed
  completions: $COUNT
  parallelism: $AT_ONCE
  # Retries of each share; a machine that is taken away does not count.
  backoffLimitPerIndex: 3
  podFailurePolicy:
    rules:
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
  template:
    spec:
      restartPolicy: Never
      # A share that is stopped has nothing to save.
      terminationGracePeriodSeconds: 5
      nodeSelector:
        cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
        cloud.google.com/gke-tpu-topology: $TOPOLOGY
      containers:
      - name: label
        image: $IMAGE
        workingDir: $DIRECTORY
        command: [bash, -c]
        args:
        - |-
          # 3: all frames are labelled, some rows are quarantined.
          $COMMAND || { code=\$?; [ \$code -eq 3 ] || exit \$code; }
        env:
        # Each machine runs alone, even if it is part of a larger slice.
        - {name: TPU_PROCESS_BOUNDS, value: "1,1,1"}
        - {name: TPU_CHIPS_PER_PROCESS_BOUNDS, value: "$CHIP_BOUNDS"}
        - {name: TPU_VISIBLE_CHIPS, value: "$VISIBLE_CHIPS"}
        - {name: CLOUD_TPU_TASK_ID, value: "0"}
        resources:
          limits: {google.com/tpu: $CHIPS}
        volumeMounts:
        - {name: shared, mountPath: /shared}
      volumes:
      - {name: shared, persistentVolumeClaim: {claimName: $CLAIM}}
YAML
