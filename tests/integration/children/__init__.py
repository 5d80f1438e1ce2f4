"""Commands that misbehave, and the stage they are watched on."""
