"""Is this machine ready for a recipe? One plain function per check, which `launch.doctor` calls one after the other."""
