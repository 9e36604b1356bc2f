"""Data: procedural videos whose truth is known (`procedural`), real videos and images (`folder`), batches (`clip`)."""
