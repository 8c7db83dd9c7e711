"""Prompt learning on T5X's own trainer. The only part of mpt_jax that imports t5x.

Nothing of T5X is replaced: `python -m t5x.train`, `t5x.eval` and `t5x.infer` run the gin files in
`gin/t5x/`, which put these parts where T5X asks for a module, tasks, an optimizer, a start:

- `network`: T5X's example network whose encoder reads virtual token ids from a prompt bank;
- `tasks`: seqio tasks with a prompt's virtual ids in front of the inputs;
- `optimizer`: optax for the prompts, one transformation for each speed, everything else frozen;
- `starts`: from a plain T5 checkpoint to a state with prompts in it;
- `distillation`: T5X's encoder-decoder model with Wang et al.'s loss.
"""
