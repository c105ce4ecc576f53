//! THE TABLE: one row per kind. Discovery, storage keys, RBAC names, columns and
//! clients all read it; a CRD becomes a row of the same type at run time.

use std::borrow::Cow;

use crate::{
    k8s::{
        admissionregistration, apiextensions, apiregistration, apps, authentication, authorization, autoscaling,
        autoscaling_v2, batch, certificates, coordination, core, discovery, events, flowcontrol, networking, node,
        policy, rbac, resource, scheduling, storage,
    },
    object::Object,
};

/// Static for a built-in row, owned for one from a CRD.
pub type Text = Cow<'static, str>;

/// What the API knows of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    pub plural: Text,
    pub singular: Text,
    pub short_names: Cow<'static, [Text]>,
    pub categories: Cow<'static, [Text]>,
    pub scope: Scope,
    pub verbs: Verbs,
    pub subresources: Cow<'static, [Subresource]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// A path segment behind an object's name, with the kind that it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    pub name: Text,
    /// Empty: the parent's group and version.
    pub group: Text,
    /// Empty: the parent's group and version.
    pub version: Text,
    pub kind: Text,
    pub verbs: Verbs,
}

/// What can be asked of a resource, in upstream's (RBAC's) words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Verb {
    Create = 1,
    Delete = 2,
    DeleteCollection = 4,
    Get = 8,
    List = 16,
    Patch = 32,
    Update = 64,
    Watch = 128,
}

impl Verb {
    /// In alphabetical order, as discovery shows them.
    pub const EVERY: [Verb; 8] = [
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// A set of [`Verb`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbs(u16);

impl Verbs {
    pub const fn of(verbs: &[Verb]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < verbs.len() {
            bits |= verbs[i] as u16;
            i += 1;
        }
        Self(bits)
    }
    pub const fn contains(self, verb: Verb) -> bool {
        self.0 & verb as u16 != 0
    }
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::EVERY.into_iter().filter(move |verb| self.contains(*verb))
    }
}

const ALL: Verbs = Verbs::of(&Verb::EVERY);
const NO_DELETECOLLECTION: Verbs = Verbs(ALL.0 & !(Verb::DeleteCollection as u16));
const CREATE: Verbs = Verbs::of(&[Verb::Create]);
const GET: Verbs = Verbs::of(&[Verb::Get]);
const UPDATE: Verbs = Verbs::of(&[Verb::Update]);
const GET_LIST: Verbs = Verbs::of(&[Verb::Get, Verb::List]);
const READ_WRITE: Verbs = Verbs::of(&[Verb::Get, Verb::Patch, Verb::Update]);
const CONNECT: Verbs = Verbs::of(&[Verb::Create, Verb::Get]);
const PROXY: Verbs = Verbs::of(&[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update]);

const fn sub(name: &'static str, kind: &'static str, verbs: Verbs) -> Subresource {
    foreign(name, "", "", kind, verbs)
}
const fn status(kind: &'static str) -> Subresource {
    sub("status", kind, READ_WRITE)
}
const fn foreign(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: Verbs,
) -> Subresource {
    Subresource {
        name: Cow::Borrowed(name),
        group: Cow::Borrowed(group),
        version: Cow::Borrowed(version),
        kind: Cow::Borrowed(kind),
        verbs,
    }
}
const SCALE: Subresource = foreign("scale", "autoscaling", "v1", "Scale", READ_WRITE);

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        match self.group.as_ref() {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }
    /// `pods` or `deployments.apps`, as error texts name a resource.
    pub fn group_resource(&self) -> String {
        match self.group.as_ref() {
            "" => self.plural.to_string(),
            group => format!("{}.{group}", self.plural),
        }
    }
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
    /// The URL path of the collection. `namespace` is ignored for cluster-scoped resources;
    /// empty for a namespaced one it means all namespaces.
    pub fn path(&self, namespace: &str) -> String {
        let root = match self.group.as_ref() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match (self.scope, namespace) {
            (Scope::Cluster, _) | (Scope::Namespaced, "") => format!("{root}/{}", self.plural),
            (Scope::Namespaced, namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
        }
    }
}

macro_rules! resources {
    ($($konst:ident $ty:ty, $group:literal $version:literal $kind:literal $plural:literal $singular:literal
       [$($short:literal),*] [$($category:literal),*] $scope:ident $verbs:ident [$($sub:expr),*];)*) => {
        $(
            pub const $konst: Resource = Resource {
                group: Cow::Borrowed($group),
                version: Cow::Borrowed($version),
                kind: Cow::Borrowed($kind),
                plural: Cow::Borrowed($plural),
                singular: Cow::Borrowed($singular),
                short_names: Cow::Borrowed(&[$(Cow::Borrowed($short)),*]),
                categories: Cow::Borrowed(&[$(Cow::Borrowed($category)),*]),
                scope: Scope::$scope,
                verbs: $verbs,
                subresources: Cow::Borrowed(&[$($sub),*]),
            };
            impl Object for $ty {
                const RESOURCE: &'static Resource = &$konst;
            }
        )*
        /// Every built-in row, in discovery's order.
        pub static BUILT_IN: &[Resource] = &[$($konst),*];

        /// Hands the documented schema of every built-in kind to the generator.
        pub(crate) fn add_schemas(generator: &mut schemars::SchemaGenerator) {
            $(generator.subschema_for::<$ty>();)*
        }
    };
}

resources! {
    // core/v1
    BINDING core::Binding, "" "v1" "Binding" "bindings" "binding" [] [] Namespaced CREATE [];
    COMPONENT_STATUS core::ComponentStatus, "" "v1" "ComponentStatus" "componentstatuses" "componentstatus" ["cs"] [] Cluster GET_LIST [];
    CONFIG_MAP core::ConfigMap, "" "v1" "ConfigMap" "configmaps" "configmap" ["cm"] [] Namespaced ALL [];
    ENDPOINTS core::Endpoints, "" "v1" "Endpoints" "endpoints" "endpoints" ["ep"] [] Namespaced ALL [];
    EVENT core::Event, "" "v1" "Event" "events" "event" ["ev"] [] Namespaced ALL [];
    LIMIT_RANGE core::LimitRange, "" "v1" "LimitRange" "limitranges" "limitrange" ["limits"] [] Namespaced ALL [];
    NAMESPACE core::Namespace, "" "v1" "Namespace" "namespaces" "namespace" ["ns"] [] Cluster NO_DELETECOLLECTION [sub("finalize", "Namespace", UPDATE), status("Namespace")];
    NODE core::Node, "" "v1" "Node" "nodes" "node" ["no"] [] Cluster ALL [sub("proxy", "NodeProxyOptions", PROXY), status("Node")];
    PERSISTENT_VOLUME_CLAIM core::PersistentVolumeClaim, "" "v1" "PersistentVolumeClaim" "persistentvolumeclaims" "persistentvolumeclaim" ["pvc"] [] Namespaced ALL [status("PersistentVolumeClaim")];
    PERSISTENT_VOLUME core::PersistentVolume, "" "v1" "PersistentVolume" "persistentvolumes" "persistentvolume" ["pv"] [] Cluster ALL [status("PersistentVolume")];
    POD core::Pod, "" "v1" "Pod" "pods" "pod" ["po"] ["all"] Namespaced ALL [sub("attach", "PodAttachOptions", CONNECT), sub("binding", "Binding", CREATE), sub("ephemeralcontainers", "Pod", READ_WRITE), foreign("eviction", "policy", "v1", "Eviction", CREATE), sub("exec", "PodExecOptions", CONNECT), sub("log", "Pod", GET), sub("portforward", "PodPortForwardOptions", CONNECT), sub("proxy", "PodProxyOptions", PROXY), sub("resize", "Pod", READ_WRITE), status("Pod")];
    POD_TEMPLATE core::PodTemplate, "" "v1" "PodTemplate" "podtemplates" "podtemplate" [] [] Namespaced ALL [];
    REPLICATION_CONTROLLER core::ReplicationController, "" "v1" "ReplicationController" "replicationcontrollers" "replicationcontroller" ["rc"] ["all"] Namespaced ALL [SCALE, status("ReplicationController")];
    RESOURCE_QUOTA core::ResourceQuota, "" "v1" "ResourceQuota" "resourcequotas" "resourcequota" ["quota"] [] Namespaced ALL [status("ResourceQuota")];
    SECRET core::Secret, "" "v1" "Secret" "secrets" "secret" [] [] Namespaced ALL [];
    SERVICE_ACCOUNT core::ServiceAccount, "" "v1" "ServiceAccount" "serviceaccounts" "serviceaccount" ["sa"] [] Namespaced ALL [foreign("token", "authentication.k8s.io", "v1", "TokenRequest", CREATE)];
    SERVICE core::Service, "" "v1" "Service" "services" "service" ["svc"] ["all"] Namespaced ALL [sub("proxy", "ServiceProxyOptions", PROXY), status("Service")];
    // apiregistration.k8s.io/v1
    API_SERVICE apiregistration::APIService, "apiregistration.k8s.io" "v1" "APIService" "apiservices" "apiservice" [] ["api-extensions"] Cluster ALL [status("APIService")];
    // apps/v1
    CONTROLLER_REVISION apps::ControllerRevision, "apps" "v1" "ControllerRevision" "controllerrevisions" "controllerrevision" [] [] Namespaced ALL [];
    DAEMON_SET apps::DaemonSet, "apps" "v1" "DaemonSet" "daemonsets" "daemonset" ["ds"] ["all"] Namespaced ALL [status("DaemonSet")];
    DEPLOYMENT apps::Deployment, "apps" "v1" "Deployment" "deployments" "deployment" ["deploy"] ["all"] Namespaced ALL [SCALE, status("Deployment")];
    REPLICA_SET apps::ReplicaSet, "apps" "v1" "ReplicaSet" "replicasets" "replicaset" ["rs"] ["all"] Namespaced ALL [SCALE, status("ReplicaSet")];
    STATEFUL_SET apps::StatefulSet, "apps" "v1" "StatefulSet" "statefulsets" "statefulset" ["sts"] ["all"] Namespaced ALL [SCALE, status("StatefulSet")];
    // events.k8s.io/v1
    EVENTS_EVENT events::Event, "events.k8s.io" "v1" "Event" "events" "event" ["ev"] [] Namespaced ALL [];
    // authentication.k8s.io/v1
    SELF_SUBJECT_REVIEW authentication::SelfSubjectReview, "authentication.k8s.io" "v1" "SelfSubjectReview" "selfsubjectreviews" "selfsubjectreview" [] [] Cluster CREATE [];
    TOKEN_REVIEW authentication::TokenReview, "authentication.k8s.io" "v1" "TokenReview" "tokenreviews" "tokenreview" [] [] Cluster CREATE [];
    // authorization.k8s.io/v1
    LOCAL_SUBJECT_ACCESS_REVIEW authorization::LocalSubjectAccessReview, "authorization.k8s.io" "v1" "LocalSubjectAccessReview" "localsubjectaccessreviews" "localsubjectaccessreview" [] [] Namespaced CREATE [];
    SELF_SUBJECT_ACCESS_REVIEW authorization::SelfSubjectAccessReview, "authorization.k8s.io" "v1" "SelfSubjectAccessReview" "selfsubjectaccessreviews" "selfsubjectaccessreview" [] [] Cluster CREATE [];
    SELF_SUBJECT_RULES_REVIEW authorization::SelfSubjectRulesReview, "authorization.k8s.io" "v1" "SelfSubjectRulesReview" "selfsubjectrulesreviews" "selfsubjectrulesreview" [] [] Cluster CREATE [];
    SUBJECT_ACCESS_REVIEW authorization::SubjectAccessReview, "authorization.k8s.io" "v1" "SubjectAccessReview" "subjectaccessreviews" "subjectaccessreview" [] [] Cluster CREATE [];
    // autoscaling/v2
    HORIZONTAL_POD_AUTOSCALER autoscaling_v2::HorizontalPodAutoscaler, "autoscaling" "v2" "HorizontalPodAutoscaler" "horizontalpodautoscalers" "horizontalpodautoscaler" ["hpa"] ["all"] Namespaced ALL [status("HorizontalPodAutoscaler")];
    // autoscaling/v1
    HORIZONTAL_POD_AUTOSCALER_V1 autoscaling::HorizontalPodAutoscaler, "autoscaling" "v1" "HorizontalPodAutoscaler" "horizontalpodautoscalers" "horizontalpodautoscaler" ["hpa"] ["all"] Namespaced ALL [status("HorizontalPodAutoscaler")];
    // batch/v1
    CRON_JOB batch::CronJob, "batch" "v1" "CronJob" "cronjobs" "cronjob" ["cj"] ["all"] Namespaced ALL [status("CronJob")];
    JOB batch::Job, "batch" "v1" "Job" "jobs" "job" [] ["all"] Namespaced ALL [status("Job")];
    // certificates.k8s.io/v1
    CERTIFICATE_SIGNING_REQUEST certificates::CertificateSigningRequest, "certificates.k8s.io" "v1" "CertificateSigningRequest" "certificatesigningrequests" "certificatesigningrequest" ["csr"] [] Cluster ALL [sub("approval", "CertificateSigningRequest", READ_WRITE), status("CertificateSigningRequest")];
    // networking.k8s.io/v1
    INGRESS_CLASS networking::IngressClass, "networking.k8s.io" "v1" "IngressClass" "ingressclasses" "ingressclass" [] [] Cluster ALL [];
    INGRESS networking::Ingress, "networking.k8s.io" "v1" "Ingress" "ingresses" "ingress" ["ing"] [] Namespaced ALL [status("Ingress")];
    IP_ADDRESS networking::IPAddress, "networking.k8s.io" "v1" "IPAddress" "ipaddresses" "ipaddress" ["ip"] [] Cluster ALL [];
    NETWORK_POLICY networking::NetworkPolicy, "networking.k8s.io" "v1" "NetworkPolicy" "networkpolicies" "networkpolicy" ["netpol"] [] Namespaced ALL [];
    SERVICE_CIDR networking::ServiceCIDR, "networking.k8s.io" "v1" "ServiceCIDR" "servicecidrs" "servicecidr" [] [] Cluster ALL [status("ServiceCIDR")];
    // policy/v1
    POD_DISRUPTION_BUDGET policy::PodDisruptionBudget, "policy" "v1" "PodDisruptionBudget" "poddisruptionbudgets" "poddisruptionbudget" ["pdb"] [] Namespaced ALL [status("PodDisruptionBudget")];
    // rbac.authorization.k8s.io/v1
    CLUSTER_ROLE_BINDING rbac::ClusterRoleBinding, "rbac.authorization.k8s.io" "v1" "ClusterRoleBinding" "clusterrolebindings" "clusterrolebinding" [] [] Cluster ALL [];
    CLUSTER_ROLE rbac::ClusterRole, "rbac.authorization.k8s.io" "v1" "ClusterRole" "clusterroles" "clusterrole" [] [] Cluster ALL [];
    ROLE_BINDING rbac::RoleBinding, "rbac.authorization.k8s.io" "v1" "RoleBinding" "rolebindings" "rolebinding" [] [] Namespaced ALL [];
    ROLE rbac::Role, "rbac.authorization.k8s.io" "v1" "Role" "roles" "role" [] [] Namespaced ALL [];
    // storage.k8s.io/v1
    CSI_DRIVER storage::CSIDriver, "storage.k8s.io" "v1" "CSIDriver" "csidrivers" "csidriver" [] [] Cluster ALL [];
    CSI_NODE storage::CSINode, "storage.k8s.io" "v1" "CSINode" "csinodes" "csinode" [] [] Cluster ALL [];
    CSI_STORAGE_CAPACITY storage::CSIStorageCapacity, "storage.k8s.io" "v1" "CSIStorageCapacity" "csistoragecapacities" "csistoragecapacity" [] [] Namespaced ALL [];
    STORAGE_CLASS storage::StorageClass, "storage.k8s.io" "v1" "StorageClass" "storageclasses" "storageclass" ["sc"] [] Cluster ALL [];
    VOLUME_ATTACHMENT storage::VolumeAttachment, "storage.k8s.io" "v1" "VolumeAttachment" "volumeattachments" "volumeattachment" [] [] Cluster ALL [status("VolumeAttachment")];
    VOLUME_ATTRIBUTES_CLASS storage::VolumeAttributesClass, "storage.k8s.io" "v1" "VolumeAttributesClass" "volumeattributesclasses" "volumeattributesclass" ["vac"] [] Cluster ALL [];
    // admissionregistration.k8s.io/v1
    MUTATING_ADMISSION_POLICY admissionregistration::MutatingAdmissionPolicy, "admissionregistration.k8s.io" "v1" "MutatingAdmissionPolicy" "mutatingadmissionpolicies" "mutatingadmissionpolicy" [] ["api-extensions"] Cluster ALL [];
    MUTATING_ADMISSION_POLICY_BINDING admissionregistration::MutatingAdmissionPolicyBinding, "admissionregistration.k8s.io" "v1" "MutatingAdmissionPolicyBinding" "mutatingadmissionpolicybindings" "mutatingadmissionpolicybinding" [] ["api-extensions"] Cluster ALL [];
    MUTATING_WEBHOOK_CONFIGURATION admissionregistration::MutatingWebhookConfiguration, "admissionregistration.k8s.io" "v1" "MutatingWebhookConfiguration" "mutatingwebhookconfigurations" "mutatingwebhookconfiguration" [] ["api-extensions"] Cluster ALL [];
    VALIDATING_ADMISSION_POLICY admissionregistration::ValidatingAdmissionPolicy, "admissionregistration.k8s.io" "v1" "ValidatingAdmissionPolicy" "validatingadmissionpolicies" "validatingadmissionpolicy" [] ["api-extensions"] Cluster ALL [status("ValidatingAdmissionPolicy")];
    VALIDATING_ADMISSION_POLICY_BINDING admissionregistration::ValidatingAdmissionPolicyBinding, "admissionregistration.k8s.io" "v1" "ValidatingAdmissionPolicyBinding" "validatingadmissionpolicybindings" "validatingadmissionpolicybinding" [] ["api-extensions"] Cluster ALL [];
    VALIDATING_WEBHOOK_CONFIGURATION admissionregistration::ValidatingWebhookConfiguration, "admissionregistration.k8s.io" "v1" "ValidatingWebhookConfiguration" "validatingwebhookconfigurations" "validatingwebhookconfiguration" [] ["api-extensions"] Cluster ALL [];
    // apiextensions.k8s.io/v1
    CUSTOM_RESOURCE_DEFINITION apiextensions::CustomResourceDefinition, "apiextensions.k8s.io" "v1" "CustomResourceDefinition" "customresourcedefinitions" "customresourcedefinition" ["crd", "crds"] ["api-extensions"] Cluster ALL [status("CustomResourceDefinition")];
    // scheduling.k8s.io/v1
    PRIORITY_CLASS scheduling::PriorityClass, "scheduling.k8s.io" "v1" "PriorityClass" "priorityclasses" "priorityclass" ["pc"] [] Cluster ALL [];
    // coordination.k8s.io/v1
    LEASE coordination::Lease, "coordination.k8s.io" "v1" "Lease" "leases" "lease" [] [] Namespaced ALL [];
    // node.k8s.io/v1
    RUNTIME_CLASS node::RuntimeClass, "node.k8s.io" "v1" "RuntimeClass" "runtimeclasses" "runtimeclass" [] [] Cluster ALL [];
    // discovery.k8s.io/v1
    ENDPOINT_SLICE discovery::EndpointSlice, "discovery.k8s.io" "v1" "EndpointSlice" "endpointslices" "endpointslice" [] [] Namespaced ALL [];
    // resource.k8s.io/v1
    DEVICE_CLASS resource::DeviceClass, "resource.k8s.io" "v1" "DeviceClass" "deviceclasses" "deviceclass" [] [] Cluster ALL [];
    RESOURCE_CLAIM resource::ResourceClaim, "resource.k8s.io" "v1" "ResourceClaim" "resourceclaims" "resourceclaim" [] [] Namespaced ALL [status("ResourceClaim")];
    RESOURCE_CLAIM_TEMPLATE resource::ResourceClaimTemplate, "resource.k8s.io" "v1" "ResourceClaimTemplate" "resourceclaimtemplates" "resourceclaimtemplate" [] [] Namespaced ALL [];
    RESOURCE_SLICE resource::ResourceSlice, "resource.k8s.io" "v1" "ResourceSlice" "resourceslices" "resourceslice" [] [] Cluster ALL [];
    // flowcontrol.apiserver.k8s.io/v1
    FLOW_SCHEMA flowcontrol::FlowSchema, "flowcontrol.apiserver.k8s.io" "v1" "FlowSchema" "flowschemas" "flowschema" [] [] Cluster ALL [status("FlowSchema")];
    PRIORITY_LEVEL_CONFIGURATION flowcontrol::PriorityLevelConfiguration, "flowcontrol.apiserver.k8s.io" "v1" "PriorityLevelConfiguration" "prioritylevelconfigurations" "prioritylevelconfiguration" [] [] Cluster ALL [status("PriorityLevelConfiguration")];
}
