"""How the shipped networks of the demo were made: programs to run again, not parts of a command.

In: drawn people. Out: `embedder.onnx` (`train_embedder`), `first-stage.safetensors`, `restorer.safetensors`
(`train_restorer`), each with a JSON of how it was judged (`judge_restorer`). Needs torch.
"""
