"""The stages of a job: each a module with one plain function, run."""
