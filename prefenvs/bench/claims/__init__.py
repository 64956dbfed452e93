"""The suite `claims`: a small demonstration of what each system is said to do, with a control, over several seeds."""
