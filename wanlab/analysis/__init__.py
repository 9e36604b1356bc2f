"""Floor 2: questions to any pipeline, through its face; no model is imported."""
