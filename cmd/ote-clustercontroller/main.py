from ote.apps.clustercontroller import main

raise SystemExit(main())
