"""The kinds of upstreams that come with pullcache. Nothing here may import what installs a reactor."""

from appliance.upstream.adapters.acr import Acr
from appliance.upstream.adapters.dockerhub import DockerHub
from appliance.upstream.adapters.ecr import Ecr
from appliance.upstream.adapters.ecrpublic import EcrPublic
from appliance.upstream.adapters.gcr import Gcr
from appliance.upstream.adapters.ghcr import Ghcr
from appliance.upstream.adapters.gitlab import GitLab
from appliance.upstream.adapters.harbor import Harbor
from appliance.upstream.adapters.k8s import K8s
from appliance.upstream.adapters.mcr import Mcr
from appliance.upstream.adapters.quay import Quay
from appliance.upstream.adapters.standard import Standard

distribution = Standard()
acr = Acr()
dockerhub = DockerHub()
ecr = Ecr()
ecr_public = EcrPublic()
gcr = Gcr()
ghcr = Ghcr()
gitlab = GitLab()
harbor = Harbor()
k8s = K8s()
mcr = Mcr()
quay = Quay()
