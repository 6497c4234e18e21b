"""Checkpoints of training: written beside the work, resumed on any number of ranks.

`saver` is what the loop knows; `state` what is kept, by name; `parts` which rank keeps what; `files` bytes and sums;
`places` where a whole checkpoint stands; `resuming` how it is read; `engines` what DeepSpeed keeps in its own way.
"""
