"""One Job of Kubernetes for a stage: created, its log shown, its state followed, deleted when it is not wanted.

manifests   the Job (or JobSet) and its headless Service, from a kustomization, with what a launch adds
kubectl     one call of the cluster's own client
pods        what pods say: what they wait for, how they ended, which were lost
log         rank 0's log as it comes, over broken connections
job         `python -m videollava.train.launch.kubernetes FOLDER`: an attempt is a Job; after a lost one comes another
"""
