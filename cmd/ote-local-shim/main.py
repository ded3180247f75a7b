from ote.apps.local_shim import main

raise SystemExit(main())
