"""Recipe -> rendered engine config -> check -> run. The only folder that imports the engines."""
