"""The commands of `meshadm`, one module a group: arguments in, one call, its result shown."""
