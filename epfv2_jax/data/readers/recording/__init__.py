"""Reader of recordings of any headset: EuRoC ASL folders, Kalibr's field names, and a headset.yaml."""
