"""The demonstration: one storm, played twice, against the code that lost and against stormbreak."""
