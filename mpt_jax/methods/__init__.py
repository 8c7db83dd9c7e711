"""How a technique adds and trains parameters, each behind the same small interface."""
