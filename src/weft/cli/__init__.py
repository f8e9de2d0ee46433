"""The command line: one file per group of verbs, each thin; loaded only when its verb is called."""
