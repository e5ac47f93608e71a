"""What ends a batch sooner: sizes of jobs, longest first, second runs, shared runs, groups.

It may know jobs, leases and notes between processes; a job that asks for none of it does not come here.
"""
