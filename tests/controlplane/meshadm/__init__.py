"""meshadm: the commands against a fake replica whose faults are scripted, and against a real one."""
