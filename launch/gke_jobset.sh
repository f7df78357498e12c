#!/usr/bin/env bash
# Prints a JobSet that trains on one TPU slice of a GKE cluster: launch/gke_jobset.sh | kubectl apply -f -
# All variables can be set in the environment. The JobSet controller must be installed.
set -euo pipefail

NAME=${NAME:-epfv2-train}
IMAGE=${IMAGE:-python:3.12}
CLAIM=${CLAIM:-shared}                              # a ReadWriteMany volume claim, mounted at /shared
DIRECTORY=${DIRECTORY:-/shared/epfv2_jax}           # the checkout in it
ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice}
TOPOLOGY=${TOPOLOGY:-4x4}
HOSTS=${HOSTS:-4}                                   # machines of such a slice
CHIPS=${CHIPS:-4}                                   # of each machine
RESTARTS=${RESTARTS:-10}                            # after errors and lost machines; preemptions do not count
COMMAND=${COMMAND:-.venv/bin/python -m epfv2_jax.train --distributed --config configs/egobody3m_resnet18.py}

cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    # All pods on the same slice, and nothing else on it.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $RESTARTS
    rules:
    - name: told_to_stop
      action: RestartJobSetAndIgnoreMaxRestarts
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: workers
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        completions: $HOSTS
        parallelism: $HOSTS
        backoffLimit: 0
        # The rule above matches this reason: the state was saved (75), or the machine was taken away.
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes: {containerName: train, operator: In, values: [75]}
          - action: FailJob
            onPodConditions: [{type: DisruptionTarget, status: "True"}]
        template:
          spec:
            restartPolicy: Never
            # After SIGTERM: enough for the rest of a step and one checkpoint.
            terminationGracePeriodSeconds: 300
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $ACCELERATOR
              cloud.google.com/gke-tpu-topology: $TOPOLOGY
            containers:
            - name: train
              image: $IMAGE
              workingDir: $DIRECTORY
              # exec: the process itself gets SIGTERM, and its exit code is the container's.
              command: [bash, -c]
              args:
              - |-
                exec $COMMAND
              resources:
                limits: {google.com/tpu: $CHIPS}
              volumeMounts:
              - {name: shared, mountPath: /shared}
              - {name: memory, mountPath: /dev/shm}
            volumes:
            - {name: shared, persistentVolumeClaim: {claimName: $CLAIM}}
            # Worker processes pass batches through it; the default is 64 MiB.
            - {name: memory, emptyDir: {medium: Memory}}
YAML
