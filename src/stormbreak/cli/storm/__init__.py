"""`stormbreak storm`: play scenarios to a policy or a program."""
